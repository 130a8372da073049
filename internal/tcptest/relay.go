package tcptest

import (
	"fmt"

	"toehold/internal/frame"
	"toehold/internal/tcb"
	"toehold/internal/tcp"
	"toehold/internal/wire"
)

// A Relay is two engines back to back in one sequence space, joined as the
// device joins them: Wire talks with the peer, Host with the program's end.
type Relay struct {
	Wire, Host *Box
	Err        error // what it promised and did not keep
	Dead       bool

	peer, program *End
	direct        [2]Path
}

// Options of the two engines.
var (
	WireOptions = tcp.Options{Through: true, CC: "cubic"}
	HostOptions = tcp.Options{Through: true, CC: "none", TSTold: true}
)

// NewRelay puts a relay between peer and program, over an outer path for each
// direction and an inner one for both.
func NewRelay(w *World, peer, program *End, toRelay, toPeer, inner Path) *Relay {
	r := &Relay{Wire: w.NewBox("wire"), Host: w.NewBox("host"), peer: peer, program: program, direct: [2]Path{toRelay, toPeer}}
	Join(w, peer.Box, r.Wire, toRelay, toPeer)
	Join(w, program.Box, r.Host, inner, inner)
	r.Wire.After, r.Host.After = r.pump, r.pump
	r.Wire.Out.Watch = func(s *wire.Segment) { r.check(s, program, r.Wire, r.Host) }
	r.Host.Out.Watch = func(s *wire.Segment) { r.check(s, peer, r.Host, r.Wire) }
	return r
}

// Restore starts both engines from the snapshots of the two ends: the wire
// engine stands in the program's place, the host engine in the peer's.
func (r *Relay) Restore(peer, program *tcb.Snapshot, w *World) error {
	if err := r.Wire.Restore(w.Now, program, WireOptions); err != nil {
		return err
	}
	return r.Host.Restore(w.Now, peer, HostOptions)
}

// pump is the device's.
func (r *Relay) pump() {
	hand(r.Wire, r.Host)
	hand(r.Host, r.Wire)
	r.Host.MarkNext(r.Wire.Events)
	r.Wire.Events &^= tcp.Marked | tcp.Reduced
	r.Host.SetTimestamp(r.Wire.TSRecent(), r.Wire.TSEcrLast())
	r.Wire.Permit(r.Host.SndUna(), r.Host.SndEdge())
	r.Host.Permit(r.Wire.SndUna(), r.Wire.SndEdge())
	r.probes()
	r.Wire.Flush()
	r.Host.Flush()
}

// hand moves what came in at one engine to the other.
func hand(from, to *Box) {
	var s frame.Span
	for from.Next(&s) {
		to.Send(s)
	}
	to.MarkNext(from.Events)
	from.Events &^= tcp.Marked | tcp.Reduced
	if from.PeerFINReceived() {
		to.CloseSend()
	}
	if from.Events&tcp.Reset != 0 {
		to.Abort()
		from.Events &^= tcp.Reset
	}
}

// probes answers probes and passes them on: the window that one side asks for
// is the other side's, whose last word may have been lost.
func (r *Relay) probes() {
	if r.Wire.Events&tcp.Probed != 0 {
		r.Wire.AckNow()
		r.Host.Probe()
	}
	if r.Host.Events&tcp.Probed != 0 {
		r.Wire.Probe()
		r.Host.AckNow()
	}
	r.Wire.Events &^= tcp.Probed
	r.Host.Events &^= tcp.Probed
}

// check is the law of acknowledging through: nothing is acknowledged that the
// other end has not received, no window is opened that it did not, and no SACK
// block is about what is acknowledged or in order.
func (r *Relay) check(s *wire.Segment, far *End, from, other *Box) {
	if s.Flags&wire.RST != 0 {
		return
	}
	if !s.Ack.LessEq(far.RcvNxt()) {
		r.fail("%s acknowledged %d, the other end received up to %d", from.Name, s.Ack, far.RcvNxt())
	}
	if s.Ack != from.RcvAcked() && other.SndUna().Less(s.Ack) {
		r.fail("%s acknowledged %d, permitted was %d", from.Name, s.Ack, other.SndUna())
	}
	for i, b := range s.SACK[:s.NSACK] {
		if b.Empty() || i > 0 && b.Lo.LessEq(from.RcvNxt()) {
			r.fail("%s reports %v, rcv.nxt is %d", from.Name, b, from.RcvNxt())
		}
	}
}

func (r *Relay) fail(format string, args ...any) {
	if r.Err == nil {
		r.Err = fmt.Errorf(format, args...)
	}
}

// Move takes snapshots of both engines and restores them.
func (r *Relay) Move() error {
	if err := r.Wire.Move(WireOptions); err != nil {
		return fmt.Errorf("wire: %w", err)
	}
	if err := r.Host.Move(HostOptions); err != nil {
		return fmt.Errorf("host: %w", err)
	}
	r.Wire.Pump()
	return nil
}

// Die ends the relay between two instructions: whatever it holds, and what is
// on the way to it, is gone, and the two ends talk with each other directly.
func (r *Relay) Die() {
	if r.Dead {
		return
	}
	r.Dead = true
	r.Wire.Close()
	r.Host.Close()
	r.Wire.After, r.Host.After = nil, nil
	Join(r.peer.world, r.peer.Box, r.program.Box, r.direct[0], r.direct[1])
}
