package driver_test

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"toehold/internal/mono"
	"toehold/internal/testnet"
)

// keepNeighbour makes what the host knows of the peer's link address last.
func (r *rig) keepNeighbour() { r.setNeighbour(r.peerLink(), netlink.NUD_PERMANENT) }

// peerLink is the peer's link address.
func (r *rig) peerLink() (mac net.HardwareAddr) {
	r.t.Helper()
	err := r.Peer.Do(func() error {
		l, err := netlink.LinkByName(r.PeerIf)
		if err == nil {
			mac = l.Attrs().HardwareAddr
		}
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return mac
}

// setNeighbour tells the host what to know of the peer's IPv4 address.
func (r *rig) setNeighbour(mac net.HardwareAddr, state int) {
	r.t.Helper()
	r.inHost(func() error {
		l, err := netlink.LinkByName(r.HostIf)
		if err != nil {
			return err
		}
		return netlink.NeighSet(&netlink.Neigh{
			LinkIndex: l.Attrs().Index, Family: unix.AF_INET, State: state, IP: r.PeerIP4.AsSlice(), HardwareAddr: mac,
		})
	})
}

// ending waits until the program's socket fails and tells how and when.
func (p *pair) ending(since mono.Time) (time.Duration, error) {
	p.host.SetReadDeadline(time.Now().Add(15 * time.Second))
	_, err := p.host.Read(make([]byte, 1))
	return mono.Now().Sub(since), err
}

// A patience is how long a program waits for a peer, set while it has none.
type patience struct {
	name    string
	options []option
	send    bool          // something is on its way
	least   time.Duration // that it takes to give up
}

type option struct{ level, name, value int }

var patiences = []patience{
	{"user timeout", []option{{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 600}}, true, 600 * time.Millisecond},
	{"keepalive", []option{
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 1},
	}, false, 2 * time.Second},
	{"keepalive with a user timeout", []option{
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 900}, {unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 1}, {unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 1},
	}, false, 900 * time.Millisecond},
}

// A program that has set how long it waits for a peer, while the device has the
// connection, gives a peer that is gone up as in the kernel, and the device lets
// the connection go.
func TestOptionsOfPatience(t *testing.T) {
	r := newRig(t)
	r.keepNeighbour()
	pairs := r.connect(len(patiences)*len(places), false)
	for i, p := range pairs {
		p.set(t, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 0)
		r.place(p, places[i%len(places)])
	}
	since := mono.Now()
	for _, p := range pairs {
		p.exchange(t, "while the peer is there")
	}
	r.Peer.Lose(t, r.PeerIf, 1, testnet.In)
	var all sync.WaitGroup
	for i, p := range pairs {
		q, place := patiences[i/len(places)], places[i%len(places)]
		if q.send {
			p.send(t, 1000)
		}
		for _, o := range q.options {
			p.set(t, o.level, o.name, o.value)
		}
		all.Go(func() {
			took, err := p.ending(since)
			t.Logf("%s, %s: after %v", q.name, place, took)
			if !errors.Is(err, unix.ETIMEDOUT) || took < q.least {
				t.Errorf("%s, %s: after %v, %v", q.name, place, took, err)
			}
		})
	}
	all.Wait()
	eventually(t, "the device has let go", func() bool { return r.device().Connections == 0 })
}
