package tcp

import (
	"toehold/internal/frame"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
	"toehold/internal/wire"
)

type Conn struct{ stats Stats }

func (c *Conn) Restore(now mono.Time, s *tcb.Snapshot, o Options) error { return s.Check() }
func (c *Conn) Snapshot(now mono.Time, s *tcb.Snapshot)                 {}
func (c *Conn) Receive(now mono.Time, seg *wire.Segment) Event          { return 0 }
func (c *Conn) Next(s *frame.Span) bool                                 { return false }
func (c *Conn) Send(s frame.Span)                                       {}
func (c *Conn) CloseSend()                                              {}
func (c *Conn) Permit(ack, edge seqnum.Value)                           {}
func (c *Conn) SetTimestamp(val, ecr uint32)                            {}
func (c *Conn) AckNow()                                                 {}
func (c *Conn) Probe()                                                  {}
func (c *Conn) Abort()                                                  {}
func (c *Conn) Advance(now mono.Time) Event                             { return 0 }
func (c *Conn) Deadline() mono.Time                                     { return 0 }
func (c *Conn) Output(now mono.Time, out *wire.Out) bool                { return false }
func (c *Conn) FlushAll()                                               {}
func (c *Conn) Close()                                                  {}
func (c *Conn) SetMSS(mss uint32)                                       {}
func (c *Conn) SndUna() seqnum.Value                                    { return 0 }
func (c *Conn) SndNxt() seqnum.Value                                    { return 0 }
func (c *Conn) SndEdge() seqnum.Value                                   { return 0 }
func (c *Conn) SndEnd() seqnum.Value                                    { return 0 }
func (c *Conn) RcvNxt() seqnum.Value                                    { return 0 }
func (c *Conn) RcvAcked() seqnum.Value                                  { return 0 }
func (c *Conn) TSRecent() uint32                                        { return 0 }
func (c *Conn) TSEcrLast() uint32                                       { return 0 }
func (c *Conn) FINAcked() bool                                          { return false }
func (c *Conn) PeerFINReceived() bool                                   { return false }
func (c *Conn) State() tcb.State                                        { return 0 }
func (c *Conn) OOO(each func(seq seqnum.Value, s frame.Span))           {}
func (c *Conn) Stats() *Stats                                           { return &c.stats }
func (c *Conn) Metrics(m *Metrics)                                      {}
