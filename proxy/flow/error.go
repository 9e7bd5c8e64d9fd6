package flow

import "errors"

// Stage is where a connection's path ended: a label of few values.
type Stage string

const (
	StageAccept         Stage = "accept"
	StageListenerFilter Stage = "listener_filter"
	StageLoop           Stage = "loop"
	StageMatch          Stage = "match"
	StageHold           Stage = "hold"
	StageTLS            Stage = "downstream_tls"
	StageNetworkFilter  Stage = "network_filter"
	StageCluster        Stage = "cluster"
	StageConnect        Stage = "upstream_connect"
	StageUpstreamTLS    Stage = "upstream_tls"
	StageRelay          Stage = "relay"
)

// EndError is why a connection ended before its bytes were through. The server
// turns it into one log line, one access log entry and one counter.
type EndError struct {
	Stage Stage
	Flags ResponseFlags
	// Details is CONNECTION_TERMINATION_DETAILS, "" for what is there already.
	Details string
	Err     error
}

func (e *EndError) Error() string { return string(e.Stage) + ": " + e.Err.Error() }
func (e *EndError) Unwrap() error { return e.Err }

// End makes an EndError, keeping the innermost one that is already in err.
func End(stage Stage, flags ResponseFlags, err error) error {
	var already *EndError
	if err == nil || errors.As(err, &already) {
		return err
	}
	return &EndError{Stage: stage, Flags: flags, Err: err}
}
