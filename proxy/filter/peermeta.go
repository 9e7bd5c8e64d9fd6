package filter

import (
	"encoding/binary"
	"fmt"
	"io"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/structpb"

	"outrider/proxy/config"
	"outrider/proxy/istio/peer"
	"outrider/proxy/relay"
)

// The frame of istio-peer-exchange: two words, big-endian, then the bytes of a
// google.protobuf.Any that holds a google.protobuf.Struct. Source: Envoy's
// contrib/istio metadata_exchange_initial_header.
const (
	frameMagic  = 0x3D230467
	frameHeader = 8
	structURL   = "type.googleapis.com/google.protobuf.Struct"
)

// maxFrame bounds what a peer can make us hold. Envoy has no limit; what
// Istio's agents send is below 4 KiB.
const maxFrame = 64 << 10

// maxDepth is protobuf's own limit of nesting in C++, which is Envoy's.
const maxDepth = 100

// frameOf is the frame that this proxy sends, made once for a configuration.
func frameOf(node *config.Node, additional []string) ([]byte, error) {
	w := peer.Local(node.Metadata, node.Locality.Region, node.Locality.Zone, additional)
	s := &structpb.Struct{Fields: map[string]*structpb.Value{peer.MetadataHeader: structpb.NewStructValue(w.Struct())}}
	if node.ID != "" {
		s.Fields[peer.MetadataIDHeader] = structpb.NewStringValue(node.ID)
	}
	return formatFrame(s)
}

// formatFrame is the frame that carries s.
func formatFrame(s *structpb.Struct) ([]byte, error) {
	deterministic := proto.MarshalOptions{Deterministic: true}
	value, err := deterministic.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("peer metadata: %w", err)
	}
	body, err := deterministic.Marshal(&anypb.Any{TypeUrl: structURL, Value: value})
	if err != nil {
		return nil, fmt.Errorf("peer metadata: %w", err)
	}
	if len(body) > maxFrame {
		return nil, fmt.Errorf("peer metadata of the node: %d bytes, the limit is %d", len(body), maxFrame)
	}
	frame := binary.BigEndian.AppendUint32(nil, frameMagic)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(body)))
	return append(frame, body...), nil
}

// parseBody is the struct in the body of a frame.
func parseBody(body []byte) (*structpb.Struct, error) {
	o := proto.UnmarshalOptions{RecursionLimit: maxDepth}
	var a anypb.Any
	if err := o.Unmarshal(body, &a); err != nil {
		return nil, fmt.Errorf("peer metadata: %w", err)
	}
	if a.TypeUrl != structURL {
		return nil, fmt.Errorf("peer metadata: type %q", a.TypeUrl)
	}
	s := &structpb.Struct{}
	if err := o.Unmarshal(a.Value, s); err != nil {
		return nil, fmt.Errorf("peer metadata: %w", err)
	}
	return s, nil
}

// frameState is what came instead of a frame.
type frameState int

const (
	frameFound frameState = iota
	// noFrame: the peer does not speak the protocol: another magic, a size
	// that is out of bounds, or an end before the header.
	noFrame
	// badFrame: there was a frame, and nothing to read in it.
	badFrame
)

// receivedFrame is what the peer sent before its application bytes.
type receivedFrame struct {
	state  frameState
	values *structpb.Struct // if frameFound
	// pass is what was read and belongs to the application.
	pass []byte
}

// receiveFrame reads a frame and not a byte beyond it. It blocks until the
// frame is there, until what has come cannot be one, or until the peer has
// ended its direction; that end is then read again by whoever reads next.
//
// Only a failure of the connection is an error.
func receiveFrame(c relay.Conn) (receivedFrame, error) {
	header := make([]byte, 0, frameHeader)
	for len(header) < frameHeader {
		var ended bool
		var err error
		if header, ended, err = readMore(c, header, frameHeader); err != nil {
			return receivedFrame{}, err
		}
		if ended || !beginsMagic(header) {
			return receivedFrame{state: noFrame, pass: header}, nil
		}
	}
	size := binary.BigEndian.Uint32(header[4:])
	if size > maxFrame {
		return receivedFrame{state: noFrame, pass: header}, nil
	}
	return receiveBody(c, int(size))
}

func receiveBody(c relay.Conn, size int) (receivedFrame, error) {
	body := make([]byte, 0, min(size, 4<<10)) // more as it comes, not as it is announced
	for len(body) < size {
		var ended bool
		var err error
		if body, ended, err = readMore(c, body, size); err != nil {
			return receivedFrame{}, err
		}
		if ended {
			return receivedFrame{state: badFrame}, nil // half a frame is no application data
		}
	}
	values, err := parseBody(body)
	if err != nil {
		return receivedFrame{state: badFrame, pass: body}, nil //nolint:nilerr // Envoy passes it on
	}
	return receivedFrame{values: values}, nil
}

// readMore appends one read to b, up to size bytes in all.
func readMore(c relay.Conn, b []byte, size int) (more []byte, ended bool, err error) {
	if err := c.WaitReadable(); err != nil {
		return b, false, err
	}
	if len(b) == cap(b) {
		b = append(make([]byte, 0, min(size, 2*cap(b)+512)), b...)
	}
	n, err := c.Read(b[len(b):min(cap(b), size)])
	b = b[:len(b)+n]
	if err == io.EOF {
		return b, len(b) < size, nil
	}
	return b, false, err
}

// beginsMagic reports whether b can be the beginning of a frame.
func beginsMagic(b []byte) bool {
	magic := binary.BigEndian.AppendUint32(nil, frameMagic)
	for i := range min(len(b), len(magic)) {
		if b[i] != magic[i] {
			return false
		}
	}
	return true
}
