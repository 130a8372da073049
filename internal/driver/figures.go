package driver

import (
	"context"
	"sync"

	"toehold/internal/flow"
)

// Figures are what there is to measure, at one moment.
type Figures struct {
	Devices     []Device
	Connections []Population
	Tallies     []Tally
	Timings     []Timing
	Kernel      KernelTraffic
	Windows     int // congestion windows that wait to be set
	Histories   int // of connections
}

// A Population is how many connections are in one place.
type Population struct {
	Place, Attachment, Device string
	Count                     int
}

// KernelTraffic is what connections have sent and received while they were
// the kernel's, as far as somebody looked: a connection's last octets, and
// those of a time in which it moved, are not in it.
type KernelTraffic struct {
	BytesSent, BytesReceived, Retransmits uint64
}

// Figures reads all of them. It walks over the namespace's connections once.
func (d *Driver) Figures(ctx context.Context) (Figures, error) {
	all, err := d.find(Selector{}, false)
	if err != nil {
		return Figures{}, err
	}
	f := Figures{Connections: populations(all), Kernel: d.ledger.enter(all), Windows: d.heirs.waitingWindows(), Histories: d.journal.remembered()}
	f.Tallies, f.Timings = d.journal.Tallies()
	f.Devices, err = d.Devices(ctx)
	return f, err
}

// populations counts the connections by where they are; those of the kernel
// are always there.
func populations(all []found) []Population {
	in := []Population{{Place: InKernel}}
	index := map[Population]int{in[0]: 0}
	for i := range all {
		c := &all[i].conn
		p := Population{Place: c.Place, Attachment: c.Attachment, Device: c.Device}
		at, ok := index[p]
		if !ok {
			at = len(in)
			index[p] = at
			in = append(in, p)
		}
		in[at].Count++
	}
	return in
}

// A ledger adds up what the kernel has sent and received: it counts for each
// connection alone, and forgets with it.
type ledger struct {
	mu     sync.Mutex
	opened bool
	sum    KernelTraffic
	last   map[flow.Key]entry
}

type entry struct {
	inode                       uint64
	sent, received, retransmits uint64
	away                        bool // was not the kernel's
}

// enter takes a look at all connections, and returns the sum. What went on
// before the first look does not count.
func (l *ledger) enter(all []found) KernelTraffic {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := make(map[flow.Key]entry, len(all))
	for i := range all {
		k, key := &all[i].socket.State, all[i].socket.Flow.Key()
		e := entry{k.Inode, k.BytesSent, k.BytesReceived, uint64(k.Retransmits), all[i].placed != nil}
		was := l.last[key]
		if !sameSocket(was.inode, e.inode) {
			was = entry{}
		}
		if l.opened && !e.away && !was.away {
			l.sum.add(&was, &e)
		}
		now[key] = e
	}
	l.opened, l.last = true, now
	return l.sum
}

// add counts what is beyond an earlier look.
func (t *KernelTraffic) add(was, now *entry) {
	t.BytesSent += beyond(now.sent, was.sent)
	t.BytesReceived += beyond(now.received, was.received)
	t.Retransmits += beyond(now.retransmits, was.retransmits)
}

// beyond is 0 for a count that went back: it is another connection's.
func beyond(now, was uint64) uint64 {
	if now < was {
		return 0
	}
	return now - was
}
