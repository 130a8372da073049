package driver

import (
	"context"
	"errors"
	"os"
	"slices"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/kernel"
	"toehold/internal/policy"
)

// A placed is where a connection is, as an uplink has it.
type placed struct {
	id       flow.ID
	hwid     abi.HWID
	place    string
	device   string
	attached string
	mtu      uint32
	hardware *abi.HardwarePart // nil: not published yet
}

// placed lists what is on the device or on its way.
func (u *uplink) placed() (all []placed) {
	u.table.Each(func(c *handover.Conn) {
		p := placed{id: c.Flow, hwid: c.HWID, place: OnTheWay, device: u.name, mtu: c.Path.MTU, hardware: u.hardware(c.HWID), attached: Shadow}
		if c.Attachment == abi.AttachBypass {
			p.attached = Bypass
		}
		if c.Phase == handover.Owned {
			p.place = OnDevice
		}
		all = append(all, p)
	})
	return all
}

// placed lists what all uplinks have.
func (d *Driver) placed() map[flow.ID]placed {
	all := make(map[flow.ID]placed)
	for _, u := range d.uplinks {
		u.call(func() {
			for _, p := range u.placed() {
				all[p.id] = p
			}
		})
	}
	return all
}

var errNotRoot = errors.New("list needs root: BPF programs read the connections")

// InKernelOnly lists the namespace's connections that s names, when there is
// no daemon: all are in the kernel.
func InKernelOnly(s Selector) ([]Connection, error) {
	socks, err := sockets(true)
	if err != nil && os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	if err != nil {
		return nil, err
	}
	all := make([]Connection, 0, len(socks))
	for i := range socks {
		if c := connection(&socks[i]); s.Match(&c) {
			all = append(all, c)
		}
	}
	return all, nil
}

// sockets lists the namespace's connections in the order of their flows, without
// channels.
func sockets(owners bool) ([]kernel.Socket, error) {
	socks, err := kernel.Sockets()
	socks = slices.DeleteFunc(socks, func(s kernel.Socket) bool { return kernel.IsChannel(s.Flow) })
	if err == nil && owners {
		err = kernel.FindOwners(socks)
	}
	if err != nil {
		return nil, err
	}
	slices.SortFunc(socks, func(a, b kernel.Socket) int {
		return inOrder(a.Flow.Local, a.Flow.Remote, b.Flow.Local, b.Flow.Remote)
	})
	return socks, nil
}

// connection is a socket as the kernel alone knows it.
func connection(s *kernel.Socket) Connection {
	k := &s.State
	return Connection{
		Place: InKernel, Local: s.Flow.Local, Remote: s.Flow.Remote, State: stateName(k.State),
		PID: s.Owner.PID, Comm: s.Owner.Comm, FD: s.Owner.FD,
		BytesSent: k.BytesSent, BytesReceived: k.BytesReceived,
		RTT: k.SRTT, Cwnd: k.SndCwnd, Ssthresh: k.SndSsthresh, Retransmits: uint64(k.Retransmits),
	}
}

// place merges in what the device knows. The octets stay the kernel's count:
// acknowledgements go through to it, so in shadow it is right. In bypass it stands
// still: TCP_INFO alone goes on (c/bypass.h).
func (c *Connection) place(p *placed) {
	c.ID, c.Place, c.Attachment, c.Device = p.hwid.String(), p.place, p.attached, p.device
	if h := p.hardware; h != nil && p.place == OnDevice {
		c.RTT, c.Cwnd, c.Ssthresh = h.SRTT, h.Cwnd, h.Ssthresh
		c.Retransmits += h.Retransmits
	}
}

// found is a connection with what it was made from.
type found struct {
	conn   Connection
	socket *kernel.Socket
	placed *placed // nil: in the kernel
}

// find lists the connections that s names.
func (d *Driver) find(s Selector, owners bool) ([]found, error) {
	socks, err := sockets(owners || s.PID != 0)
	if err != nil {
		return nil, err
	}
	at := d.placed()
	var all []found
	for i := range socks {
		f := found{conn: connection(&socks[i]), socket: &socks[i]}
		if p, ok := at[socks[i].Flow]; ok {
			f.placed = &p
			f.conn.place(&p)
		}
		if s.Match(&f.conn) {
			d.journal.fill(&f.conn, socks[i].State.Inode)
			all = append(all, f)
		}
	}
	return all, nil
}

// List returns the connections that s names, in the order of their flows; all
// for an empty selector.
func (d *Driver) List(_ context.Context, s Selector) ([]Connection, error) {
	all, err := d.find(s, true)
	if err != nil {
		return nil, err
	}
	return connections(all), nil
}

func connections(all []found) []Connection {
	conns := make([]Connection, len(all))
	for i := range all {
		conns[i] = all[i].conn
	}
	return conns
}

// exact is the one four-tuple of a selector that says nothing else.
func (s Selector) exact() (flow.ID, bool) {
	id, ok := s.Flow()
	return id, ok && s.ID == 0 && s.PID == 0 && s.State == ""
}

// general says that s names a group by where it is alone, which may be empty.
func (s Selector) general() bool {
	return s.All && s.ID == 0 && s.PID == 0 && s.Local == Endpoint{} && s.Remote == Endpoint{} || s == Selector{State: s.State}
}

// Select names the flows that a request is about. A selector that names one
// four-tuple needs no look at anything else. Of one that names a group, those
// that are already where they are to go are left out, unless there are only
// such. None at all are an error when the selector says whose or which.
func (d *Driver) Select(s Selector, goal, attachment string) ([]flow.ID, error) {
	if id, ok := s.exact(); ok {
		return []flow.ID{id}, nil
	}
	all, err := d.find(s, false)
	if err != nil {
		return nil, err
	}
	var away, there []flow.ID
	for i := range all {
		if c := &all[i].conn; c.Place == goal && (attachment == "" || c.Attachment == attachment) {
			there = append(there, all[i].conn.Flow())
		} else {
			away = append(away, all[i].conn.Flow())
		}
	}
	switch {
	case len(away) > 0 || s == (Selector{All: true}):
		return away, nil
	case len(there) > 0:
		return there, nil
	case s.general():
		return nil, nil
	}
	return nil, noMatch(s)
}

// Offload moves the connections that s names to their devices.
func (d *Driver) Offload(ctx context.Context, s Selector, o Options) (Result, error) {
	goal := o.Attachment
	if goal == Shadow {
		goal = "" // it is no reason to leave bypass
	}
	ids, err := d.Select(s, OnDevice, goal)
	if err != nil {
		return Result{}, err
	}
	o.claims = &claims{d.policing, admission.Claim{Asked: true}}
	r, err := d.policing.byHand(policy.Hand{To: OnDevice}, ids, func() (Result, error) { return d.OffloadFlows(ctx, ids, o) })
	return r, errors.Join(err, d.matched(s, &r))
}

// Upload moves the connections that s names home.
func (d *Driver) Upload(ctx context.Context, s Selector) (Result, error) {
	ids, err := d.Select(s, InKernel, "")
	if err != nil {
		return Result{}, err
	}
	r, err := d.policing.byHand(policy.Hand{To: InKernel}, ids, func() (Result, error) { return d.UploadFlows(ctx, ids) })
	return r, errors.Join(err, d.matched(s, &r))
}

// matched says that a selector which names one four-tuple, and which Select
// took at its word, names nothing. What a group's selector named was there
// when the request came: a refusal says that it has gone since.
func (d *Driver) matched(s Selector, r *Result) error {
	id, ok := s.exact()
	if !ok || len(r.Refused) != 1 {
		return nil
	}
	f := &r.Refused[0]
	if f.Detail != abi.NoConnection.Text() && f.Reason != abi.AlreadyInKernel.String() {
		return nil
	}
	states, err := d.probe([]flow.Key{id.Key()})
	if err == nil && states[0].Special&abi.SpecialMissing != 0 {
		return noMatch(s)
	}
	return nil
}
