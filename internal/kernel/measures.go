package kernel

import (
	"errors"
	"fmt"
	"sync"

	"github.com/cilium/ebpf/link"

	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// A Measure is what the kernel has counted and measured of one connection: struct
// measure of internal/bpf/c/measures.c. While the device has the connection,
// the octets acknowledged and received are the wire's all the same; the rest
// is of the socket's hop to the device.
type Measure struct {
	Key                                      flow.Key
	Cookie, NetNS                            uint64 // of socket and network namespace (SO_COOKIE, SO_NETNS_COOKIE)
	Cgroup                                   uint64 // id of the socket's cgroup (v2), the inode of its directory
	Inode                                    uint64 // 0: not accepted yet, or closed by its program
	BytesAcked, BytesReceived                uint64
	BytesSent, BytesResent                   uint64 // with retransmissions, and those alone
	DeliveryRate, PacingRate                 uint64 // octets/s; PacingRate all ones: no limit
	CongestionControl                        [16]byte
	SegsOut, SegsIn, DataSegsOut, DataSegsIn uint32
	Retransmits                              uint32 // segments, in all
	OutOfOrder                               uint32 // segments received after a gap
	Reordering, ReorderingSeen               uint32 // segments, and times
	SRTT, MinRTT                             uint32 // us, 0: none yet
	Cwnd, Ssthresh                           uint32 // segments
	MSS                                      uint32 // octets of payload
	SinceSent, SinceReceived, SinceAcked     uint32 // ms since data was sent and received, and since an acknowledgement came
	Queued, Unread                           uint32 // octets written and not acknowledged; received and not read
	Mark, Priority, UID, BoundIf             uint32
	Ifindex                                  uint32 // where its packets leave or, before any did, come in; 0: not known
	State, CAState                           uint8  // TCP_ESTABLISHED ..., TCP_CA_Open ...
	TOS                                      uint8  // type of service or traffic class; DSCP is its upper six bits
	_                                        [9]byte
}

// OctetsPerSegment is the mean payload of the data segments both ways, 0
// before the first.
func (m *Measure) OctetsPerSegment() float64 {
	segments := uint64(m.DataSegsOut) + uint64(m.DataSegsIn)
	return ratio(m.BytesSent+m.BytesReceived, segments)
}

// OctetsPerAck is how many octets the peer acknowledges at a time: with small
// writes few, in bulk several segments.
func (m *Measure) OctetsPerAck() float64 {
	return ratio(m.BytesAcked, uint64(m.SegsIn))
}

// SmallIO is from 0, as when all data segments are full, to near 1, when they
// carry next to nothing. Without data it is 0.
func (m *Measure) SmallIO() float64 {
	mean := m.OctetsPerSegment()
	if mean == 0 || m.MSS == 0 {
		return 0
	}
	return max(0, 1-mean/float64(m.MSS))
}

func ratio(a, b uint64) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

// A Meter measures the connections of a namespace again and again. The kernel
// does not keep when a connection was established, so a Meter remembers when
// it has first seen each.
type Meter struct {
	measures []Measure
	seen     map[uint64]sighting // by cookie
	round    uint64
}

type sighting struct {
	first mono.Time
	round uint64 // of the last Read that saw it
}

// NewMeter returns a Meter that has seen nothing.
func NewMeter() *Meter { return &Meter{seen: make(map[uint64]sighting)} }

// Read measures the connections of the calling thread's network namespace, as
// Sockets lists them. The slice is the Meter's until the next Read. Without
// BPF iterators the error is a *bpf.MissingFeature.
func (m *Meter) Read(now mono.Time) ([]Measure, error) {
	it, err := measuring()
	if err != nil {
		return nil, err
	}
	m.measures, m.round = m.measures[:0], m.round+1
	err = each(it.measures, func(r *Measure) {
		m.measures = append(m.measures, *r)
		m.see(now, r.Cookie)
	})
	if err != nil {
		return nil, fmt.Errorf("measure connections: %w", err)
	}
	m.forget()
	return m.measures, nil
}

func (m *Meter) see(now mono.Time, cookie uint64) {
	s, ok := m.seen[cookie]
	if !ok {
		s.first = now
	}
	s.round = m.round
	m.seen[cookie] = s
}

// forget lets go of connections that have gone.
func (m *Meter) forget() {
	if len(m.seen) == len(m.measures) {
		return
	}
	for cookie, s := range m.seen {
		if s.round != m.round {
			delete(m.seen, cookie)
		}
	}
}

// FirstSeen is when a Read first saw the socket with this cookie: within the
// time between two Reads of its establishment, and for those that are older
// than the Meter, the time of its first Read. 0: the last Read has not seen it.
func (m *Meter) FirstSeen(cookie uint64) mono.Time { return m.seen[cookie].first }

// A measurer is the loaded iterator of measures.
type measurer struct {
	objects  measuresObjects
	measures *link.Iter
}

var measuring = sync.OnceValues(func() (*measurer, error) {
	it := new(measurer)
	if err := it.load(); err != nil {
		return nil, errors.Join(err, it.objects.Close())
	}
	return it, nil
})

func (it *measurer) load() error {
	spec, err := loadMeasures()
	if err != nil {
		return err
	}
	if err := bpf.LoadFitted(spec, &it.objects, "BPF iterators over sockets", "5.13"); err != nil {
		return err
	}
	it.measures, err = attach(it.objects.Measures)
	return err
}
