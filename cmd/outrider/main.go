// Command outrider is an mTLS proxy that runs Envoy's configuration.
//
// Exit codes: 0, 1 for a refused configuration or a failure, 2 for usage.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

func main() {
	keepOffTheStart()
	os.Exit(run(context.Background(), os.Args[1:], os.Stdout, os.Stderr))
}

// The exit codes.
const (
	exitOK = iota
	exitFailed
	exitUsage
)

// run is main without the process: it returns the exit code.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot(stdout, stderr)
	// Envoy takes its flags without a command, and so do agents that start it.
	if len(args) > 0 && strings.HasPrefix(args[0], "-") && !isRootFlag(args[0]) {
		args = append([]string{"run"}, args...)
	}
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var quiet silentError
	var usage *usageError
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &quiet):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "outrider: %v\nRun `outrider help` for the commands and their flags.\n", err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "outrider: %v\n", err)
		return exitFailed
	}
}

// usageError is a mistake in how the command was called.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// silentError means that everything was said already.
type silentError struct{}

func (silentError) Error() string { return "failed" }

func isRootFlag(arg string) bool { return arg == "-h" || arg == "--help" || arg == "--version" }

func newRoot(stdout, stderr io.Writer) *cobra.Command {
	root := &cobra.Command{
		Use:           "outrider",
		Short:         "An mTLS proxy that runs Envoy's configuration and explains itself",
		Version:       version(),
		SilenceErrors: true, SilenceUsage: true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return &usageError{fmt.Errorf("unknown command %q", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetOut(stdout)
	root.SetErr(stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	root.AddCommand(newRunCommand(), newValidateCommand(), newExplainCommand(), newDemoCommand(), newInjectCommand(), newAgentCommand(), newSidecarCommand(), newIptablesCommand(), newWaitCommand(), newCertsCommand(),
		newCACommand())
	for _, c := range root.Commands() {
		if c.Args == nil {
			c.Args = noArgs
		}
	}
	return root
}

func noArgs(_ *cobra.Command, args []string) error {
	if len(args) > 0 {
		return &usageError{fmt.Errorf("unexpected argument %q", args[0])}
	}
	return nil
}

// version is the module's version and revision, as the build recorded them.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && !strings.Contains(v, s.Value[:min(12, len(s.Value))]) {
			v += " " + s.Value[:min(12, len(s.Value))]
		}
	}
	return v
}
