package proxy

import (
	"context"

	"google.golang.org/protobuf/proto"

	"outrider/proxy/config"
)

// warm keeps snap aside until its secrets and routes are there. A newer version
// takes its place.
func (l *liveListener) warm(ls *listeners, snap *snapshot) {
	ctx, forgo := context.WithCancel(l.server.accepting)
	l.mu.Lock()
	before := l.supersede()
	l.warming, l.forgo = snap, forgo
	l.mu.Unlock()
	before.close(l.current())
	l.server.log.Info("listener update waits for what it needs", "listener", l.name, "reason", snap.notReady())
	ls.wait.Go(func() {
		defer forgo()
		if err := snap.waitReady(ctx); err != nil {
			return
		}
		if err := ls.warmed(l, snap); err != nil {
			ls.refuse(snap.cfg, snap.version, err)
			ls.server.log.Error("warmed listener update is refused", "listener", l.name, "reason", err)
		}
	})
}

// warmed makes snap current, for which l has waited, if l still wants it.
func (ls *listeners) warmed(l *liveListener, snap *snapshot) error {
	ls.changing.Lock()
	defer ls.changing.Unlock()
	l.mu.Lock()
	superseded := l.warming != snap
	if !superseded {
		l.warming, l.forgo = nil, nil
	}
	l.mu.Unlock()
	switch {
	case superseded:
		return nil
	case ls.stops(snap.cfg):
		snap.close(l.current())
		return errDraining
	}
	return ls.swap(l, snap)
}

// has says that cfg is what l has, or what is warming, already. A change back to
// what is current ends the warming of the other.
func (l *liveListener) has(cfg *config.Listener) bool {
	changing := &l.server.listeners.changing
	changing.Lock()
	defer changing.Unlock()
	l.mu.Lock()
	warming := l.warming
	if warming != nil && proto.Equal(warming.cfg.Source, cfg.Source) {
		l.mu.Unlock()
		return true
	}
	same := proto.Equal(l.current().cfg.Source, cfg.Source)
	if same {
		warming = l.supersede()
	}
	l.mu.Unlock()
	if same {
		warming.close(l.current())
	}
	return same
}

// supersede ends the wait of the version that is warming, which nobody has used;
// nil if there is none. It needs mu.
func (l *liveListener) supersede() *snapshot {
	warming := l.warming
	if l.forgo != nil {
		l.forgo()
	}
	l.warming, l.forgo = nil, nil
	return warming
}

func (l *liveListener) warmingSnapshot() *snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.warming
}
