package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
)

func newDemoCommand() *cobra.Command {
	var keep bool
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on this machine: CA, two workloads, two sidecars, mTLS, a rotation, the refusals",
		RunE: func(c *cobra.Command, _ []string) error {
			return demo(c.Context(), c.OutOrStdout(), keep)
		},
	}
	c.Flags().BoolVar(&keep, "keep", false, "keep the directory with both sidecars' configuration and logs")
	return c
}

// outcome is one row of the demo's table.
type outcome struct {
	what, expected, seen string
	ok                   bool
}

// demo runs every step on a fresh mesh and prints what happened. It fails
// unless every row held.
func demo(ctx context.Context, out io.Writer, keep bool) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "outrider-demo-")
	if err != nil {
		return err
	}
	if keep {
		fmt.Fprintf(out, "everything is in %s\n\n", dir)
	} else {
		defer os.RemoveAll(dir)
	}
	m, err := startMesh(ctx, dir)
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer m.stop()
	fmt.Fprintln(out, "user-web -> sidecar 127.0.1.1 ==(mTLS)==> sidecar 127.0.2.1 -> uc 127.0.2.2; both sidecars run examples/*.yaml")
	fmt.Fprintln(out)
	rows := []outcome{}
	for _, step := range demoSteps {
		rows = append(rows, step(ctx, m))
	}
	return printOutcomes(out, rows)
}

func printOutcomes(out io.Writer, rows []outcome) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "\tWHAT\tEXPECTED\tSEEN")
	failed := 0
	for _, r := range rows {
		mark := "ok"
		if !r.ok {
			mark = "FAILED"
			failed++
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", mark, r.what, r.expected, oneLine(r.seen))
	}
	if err := table.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(out, "\n%d of %d held\n", len(rows)-failed, len(rows))
	if failed > 0 {
		return errors.New("the demo did not hold")
	}
	return nil
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
