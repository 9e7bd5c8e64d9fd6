package certs

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// How files are watched: events are gathered for debounce before anything is
// read again, and everything is looked at every pollEvery whether there was an
// event or not. Envoy reacts to a file moved into place only; a file written
// in place, and a missed event, are our additions.
const (
	debounce  = 100 * time.Millisecond
	pollEvery = time.Minute
)

// Watch calls changed whenever one of the directories may have new content,
// until ctx ends. It watches directories, not files, so that atomic renames and
// Kubernetes' symlink swaps are seen. changed is called once at the start, so
// that nothing between reading and watching is missed; it should compare
// content, for it is called for neighbours of a file too.
func Watch(ctx context.Context, dirs []string, changed func()) error {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	defer w.Close()
	for _, dir := range dirs {
		if err := w.Add(dir); err != nil {
			return fmt.Errorf("watch %s: %w", dir, err)
		}
	}
	changed()
	poll := time.NewTicker(pollEvery)
	defer poll.Stop()
	quiet := time.NewTimer(0)
	quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-w.Events:
			quiet.Reset(debounce)
		case <-w.Errors: // an overflow: look at everything
			quiet.Reset(debounce)
		case <-quiet.C:
			changed()
		case <-poll.C:
			changed()
		}
	}
}

// Dirs are the directories to watch for path, or watched if that is given.
func Dirs(path, watched string) []string {
	if watched != "" {
		return []string{watched}
	}
	return []string{filepath.Dir(path)}
}
