package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// originFlag has this program be an origin server and nothing else.
const originFlag = "-serve-origin"

// options are the command line's.
type options struct {
	rows, peers string
	rounds      int
	time        time.Duration
	docs        string
	render      bool
	profiles    string
	scale       bool
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peers:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) > 3 && os.Args[1] == originFlag {
		return originMain(os.Args[2], os.Args[3], len(os.Args) > 4)
	}
	var o options
	flag.StringVar(&o.rows, "row", "", "only rows whose id begins with one of these, comma-separated; the others' figures are dropped")
	flag.StringVar(&o.peers, "peer", "", "only these peers, comma-separated")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each row is measured with each peer")
	flag.DurationVar(&o.time, "time", time.Second, "how long one measure takes, without its warm-up")
	flag.StringVar(&o.docs, "docs", "", "directory that takes performance.json, .md and .svg; nothing is written without it")
	flag.BoolVar(&o.render, "render", false, "measure nothing: make .md and .svg from -docs' performance.json")
	flag.StringVar(&o.profiles, "profile", "", "directory that takes CPU profiles of outrider; its figures are then its profiler's too")
	flag.BoolVar(&o.scale, "scale", false, "how cost grows, of outrider and Envoy: scale.json, .md and .svg; -docs' performance.json is read")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	file, render := "performance.json", render
	if o.scale {
		file, render = "scale.json", renderScale
	}
	if o.render {
		r, err := loadResults(o.docs + "/" + file)
		if err != nil {
			return err
		}
		return render(r, o.docs)
	}
	cores, err := pinSelf()
	if err != nil {
		return fmt.Errorf("to be on one CPU: %w", err)
	}
	r, err := measureAll(ctx, o, cores)
	if r != nil {
		printTable(r)
		printBehind(r)
		if o.docs != "" {
			err = errors.Join(err, r.save(o.docs+"/"+file), render(r, o.docs))
		}
	}
	return err
}

// harness is what all measures share.
type harness struct {
	cores    cores
	ids      *identities
	dir      string
	warmUp   time.Duration
	time     time.Duration
	verified map[string]bool // what is checked already, and need not be again
	profiles string          // directory of profiles; "" takes none
	port     int             // the last that a proxy was given
}

// paceTime is how long latencies are measured: long enough for a 99.9th
// percentile of more than a few messages.
func (h *harness) paceTime() time.Duration { return 2 * h.time }

// measureAll measures in rounds: each row with each peer, then again. Who is
// first changes with the round. Errors of single measures are gaps of the
// result, and told at the end.
func measureAll(ctx context.Context, o options, c cores) (*results, error) {
	dir, err := os.MkdirTemp("", "outrider-peers-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	h := &harness{cores: c, dir: dir, warmUp: 300 * time.Millisecond, time: o.time, verified: map[string]bool{}, port: firstPort + os.Getpid()%10000}
	if h.ids, err = newIdentities(dir); err != nil {
		return nil, err
	}
	if err := raiseFiles(); err != nil {
		fmt.Fprintln(os.Stderr, "peers: the limit of open files:", err)
	}
	if o.profiles != "" {
		o.peers = "outrider"
		h.profiles = o.profiles
	}
	rows := allRows()
	if o.scale {
		rows = scaleRows()
		if o.peers == "" {
			o.peers = "outrider,envoy"
		}
	}
	peers, err := pick(allPeers(ctx, dir), o.peers)
	if err != nil {
		return nil, err
	}
	rows = pickRows(rows, o.rows)
	if len(rows) == 0 {
		return nil, fmt.Errorf("-row: no row begins with %q", o.rows)
	}
	r := newResults(o.time, peers, c.proxy.Count()+c.load.Count())
	for _, p := range peers {
		if p.missing != "" {
			fmt.Fprintf(os.Stderr, "peers: %s is %s\n", p.name, p.missing)
		}
	}
	var failed []error
	for round := range o.rounds {
		r.Rounds = round + 1 // of a run that is stopped, those that were begun
		for _, w := range rows {
			if w.rounds > 0 && round >= w.rounds {
				continue
			}
			for i := range peers {
				p := peers[(i+round)%len(peers)]
				if err := r.one(ctx, h, p, w, round); err != nil {
					failed = append(failed, err)
				}
				if ctx.Err() != nil {
					return r, ctx.Err()
				}
			}
		}
	}
	return r, errors.Join(failed...)
}

// one measures one row with one peer, once.
func (r *results) one(ctx context.Context, h *harness, p *peer, w row, round int) error {
	if why := p.does(w.scene); why != "" {
		if round == 0 {
			r.Gaps = append(r.Gaps, gap{w.id, p.name, why})
		}
		return nil
	}
	v, err := h.measure(ctx, p, w, round)
	if len(v) > 0 {
		r.Samples = append(r.Samples, sample{w.id, p.name, round, v})
		fmt.Fprintf(os.Stderr, "%d  %-28s %-12s%s\n", round+1, w.id, p.name, v)
	}
	if err != nil {
		r.Gaps = append(r.Gaps, gap{w.id, p.name, firstLine(err.Error())})
		err = fmt.Errorf("%s: %w", w.id, err)
		fmt.Fprintln(os.Stderr, "peers:", err)
	}
	return err
}

func (h *harness) measure(ctx context.Context, p *peer, w row, round int) (values, error) {
	b, err := h.newBed(ctx, p, w.scene)
	if err != nil {
		return nil, err
	}
	defer b.close()
	saved := h.profiled(ctx, w, round, b)
	v, err := w.measure(ctx, b)
	if err == nil {
		err = saved()
	}
	if err != nil {
		err = fmt.Errorf("%s: %w%s", p.name, err, b.logs())
	}
	return v, err
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return line
}

// pick chooses peers by name.
func pick(all []*peer, names string) ([]*peer, error) {
	if names == "" {
		return all, nil
	}
	var out []*peer
	for name := range strings.SplitSeq(names, ",") {
		n := len(out)
		for _, p := range all {
			if p.name == name {
				out = append(out, p)
			}
		}
		if len(out) == n {
			return nil, fmt.Errorf("-peer: there is no %q", name)
		}
	}
	return out, nil
}

// pickRows chooses rows by how their ids begin.
func pickRows(all []row, prefixes string) []row {
	var out []row
	for _, w := range all {
		for prefix := range strings.SplitSeq(prefixes, ",") {
			if strings.HasPrefix(w.id, prefix) {
				out = append(out, w)
				break
			}
		}
	}
	return out
}
