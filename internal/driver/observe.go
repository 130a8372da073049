package driver

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/policy"
)

// A meter measures the namespace's connections. kernel.Meter is one.
type meter interface {
	Read(now mono.Time) ([]kernel.Measure, error)
	FirstSeen(cookie uint64) mono.Time
}

// An observer makes the facts that a policy decides by. It remembers what a
// single look cannot tell.
type observer struct {
	meter   meter
	owners  func([]kernel.Socket) error
	cgroups kernel.Cgroups
	known   map[uint64]*acquaintance // by cookie
	flows   map[flow.ID]*acquaintance
	turn    uint64
	netns   uint32
	seen    []policy.Seen
}

// An acquaintance is a connection that was seen before.
type acquaintance struct {
	flow       flow.ID
	at         mono.Time
	octets     uint64
	rate       float64
	inode      uint64
	mss        uint32
	recent     admission.Recent // while it is the kernel's
	owner      kernel.Owner
	executable string
	asked      int // times that its owner was looked for
	turn       uint64
}

// ownerTries is how often the owner of a connection is looked for: one that
// waits to be accepted has none yet, one that its program has closed none any
// more.
const ownerTries = 10

func newObserver() *observer {
	return &observer{meter: kernel.NewMeter(), owners: kernel.FindOwners, known: make(map[uint64]*acquaintance), flows: make(map[flow.ID]*acquaintance), netns: ownNamespace()}
}

// ownNamespace is the inode of this process's network namespace.
func ownNamespace() (inode uint32) {
	link, _ := os.Readlink("/proc/self/ns/net")
	fmt.Sscanf(link, "net:[%d]", &inode)
	return inode
}

// needs are the facts that cost something to find out; nil wants all.
type needs func(fact string) bool

// look measures all connections. at is where those on devices are. The slice
// is the observer's until the next look.
func (o *observer) look(now mono.Time, at map[flow.ID]placed, want needs) ([]policy.Seen, error) {
	if want == nil {
		want = func(string) bool { return true }
	}
	measures, err := o.meter.Read(now)
	if err != nil {
		return nil, err
	}
	o.turn++
	for i := range measures {
		o.meet(now, &measures[i])
	}
	o.forget()
	if want("process") || want("executable") {
		o.findOwners(measures)
	}
	interfaces := make(map[uint32]string)
	if want("interface") {
		interfaces = interfaceNames()
	}
	o.seen = slices.Grow(o.seen[:0], len(measures))[:len(measures)]
	for i := range measures {
		m, s := &measures[i], &o.seen[i]
		s.Flow, s.Socket, s.Moving = m.Key.ID(), m.Cookie, false
		o.facts(now, m, &s.Facts)
		s.Facts.Interface = interfaces[m.Ifindex]
		if want("cgroup") {
			s.Facts.Cgroup = o.cgroups.Path(m.Cgroup)
		}
		p, away := at[s.Flow]
		o.known[m.Cookie].recent.Count(now, totals(m), !away)
		if away {
			s.Moving = p.place == OnTheWay
			onDevice(&s.Facts, m, &p)
		}
	}
	return o.seen, nil
}

// forget lets go of connections that the last look has not seen.
func (o *observer) forget() {
	for cookie, a := range o.known {
		if a.turn == o.turn {
			continue
		}
		delete(o.known, cookie)
		if o.flows[a.flow] == a { // not another one's by now
			delete(o.flows, a.flow)
		}
	}
}

// meet brings what is remembered of a connection up to date.
func (o *observer) meet(now mono.Time, m *kernel.Measure) {
	octets := m.BytesAcked + m.BytesReceived
	a := o.known[m.Cookie]
	if a == nil {
		a = &acquaintance{flow: m.Key.ID(), at: now, octets: octets}
		o.known[m.Cookie], o.flows[a.flow] = a, a
	}
	if past := now.Sub(a.at); past >= lookEvery/2 { // a shorter time says little
		// Half of it is of the time since the last look, so that a second
		// without traffic does not count as the end.
		a.rate = (a.rate + float64(octets-min(octets, a.octets))/past.Seconds()) / 2
		a.at, a.octets = now, octets
	}
	a.turn, a.inode, a.mss = o.turn, m.Inode, m.MSS
}

// totals are what the kernel has counted of a connection.
func totals(m *kernel.Measure) admission.Totals {
	return admission.Totals{
		Sent: m.BytesSent, Resent: m.BytesResent, Received: m.BytesReceived,
		Segments: uint64(m.DataSegsOut) + uint64(m.DataSegsIn), SegsReceived: uint64(m.SegsIn), OutOfOrder: uint64(m.OutOfOrder),
	}
}

// rate is what a connection has moved lately, in octets a second; 0 when it is
// not known.
func (o *observer) rate(id flow.ID) uint64 {
	if a := o.flows[id]; a != nil {
		return uint64(a.rate)
	}
	return 0
}

// facts fills in what measure and memory tell.
func (o *observer) facts(now mono.Time, m *kernel.Measure, f *policy.Facts) {
	a := o.known[m.Cookie]
	*f = policy.Facts{
		Local: a.flow.Local, Remote: a.flow.Remote, Process: a.owner.Comm, Executable: a.executable, UID: m.UID, NetNS: o.netns, Mark: m.Mark, DSCP: m.TOS >> 2,
		Congestion: text(m.CongestionControl), Place: InKernel, BytesSent: m.BytesAcked, BytesReceived: m.BytesReceived,
		Rate: uint64(a.rate), RTT: time.Duration(m.SRTT) * time.Microsecond,
		Retransmissions: portion(uint64(m.Retransmits), uint64(m.SegsOut)),
		Age:             now.Sub(o.meter.FirstSeen(m.Cookie)),
		Idle:            time.Duration(min(m.SinceSent, m.SinceReceived)) * time.Millisecond,
		SmallIO:         m.SmallIO(),
	}
}

// onDevice merges in what a device tells of its connection.
func onDevice(f *policy.Facts, m *kernel.Measure, p *placed) {
	if p.place == OnDevice {
		f.Place = OnDevice
	}
	if h := p.hardware; h != nil && p.place == OnDevice {
		f.RTT = time.Duration(h.SRTT) * time.Microsecond
		f.Retransmissions = portion(uint64(m.Retransmits)+h.Retransmits, uint64(m.SegsOut)+h.SegsSent)
	}
}

// portion is part of whole, 0 of nothing.
func portion(part, whole uint64) float64 {
	if whole == 0 {
		return 0
	}
	return min(1, float64(part)/float64(whole))
}

// findOwners looks for the processes of connections that are new.
func (o *observer) findOwners(measures []kernel.Measure) {
	var socks []kernel.Socket
	for i := range measures {
		m := &measures[i]
		if a := o.known[m.Cookie]; a.owner.PID == 0 && a.asked < ownerTries && m.Inode != 0 {
			a.asked++
			s := kernel.Socket{Flow: m.Key.ID()}
			s.State.Cookie, s.State.Inode = m.Cookie, m.Inode
			socks = append(socks, s)
		}
	}
	if len(socks) == 0 || o.owners(socks) != nil {
		return
	}
	for i := range socks {
		if s := &socks[i]; s.Owner.PID != 0 {
			a := o.known[s.State.Cookie]
			a.owner, a.executable = s.Owner, executable(s.Owner.PID)
		}
	}
}

// executable is the path of a process's program, "" when it is gone.
func executable(pid int) string {
	path, _ := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	return strings.TrimSuffix(path, " (deleted)")
}

func interfaceNames() map[uint32]string {
	all, _ := net.Interfaces() // without them, no name is known
	names := make(map[uint32]string, len(all))
	for _, i := range all {
		names[uint32(i.Index)] = i.Name
	}
	return names
}
