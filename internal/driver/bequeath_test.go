package driver

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	"toehold/internal/abi"
	"toehold/internal/bpf"
	"toehold/internal/flow"
	"toehold/internal/kernel"
	"toehold/internal/mono"
	"toehold/internal/testnet"
)

// A socket that no process has gets its window all the same.
func TestBequeathWithoutAnOwner(t *testing.T) {
	n := testnet.New(t)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	peer, err := n.Peer.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	windows, err := bpf.LoadWindows()
	if err != nil {
		t.Fatal(err)
	}
	defer windows.Close()
	var text bytes.Buffer
	log := slog.New(slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelDebug}))
	id := flow.Make(s.LocalAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort(), s.RemoteAddr().(interface{ AddrPort() netip.AddrPort }).AddrPort())
	p := &bpf.Private{Cubic: abi.CubicState{LastMaxCwnd: 40}}
	copy(p.Control[:], "cubic")
	err = n.Host.Do(func() error {
		bequeath(log, windows, []bpf.Window{{Key: id.Key(), Cwnd: 7, Ssthresh: 5, Private: p, Inode: 1 << 60}})
		socks, err := kernel.Sockets()
		for _, k := range socks {
			if k.Flow == id && (k.State.SndCwnd != 7 || k.State.SndSsthresh != 5 || k.State.Cubic.LastMaxCwnd != 0) {
				t.Errorf("cwnd %d, ssthresh %d, %+v", k.State.SndCwnd, k.State.SndSsthresh, k.State.Cubic)
			}
		}
		return err
	})
	if err != nil || !bytes.Contains(text.Bytes(), []byte(errNoOwner.Error())) {
		t.Errorf("%v, the log says %q", err, &text)
	}
}

// BenchmarkBequeath has everything in it: the walk over open files, and of each
// socket the descriptor and the change.
func BenchmarkBequeath(b *testing.B) {
	n := testnet.New(b)
	l, err := n.Host.Listen("tcp", netip.AddrPortFrom(n.HostIP4, 0).String())
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	windows, err := bpf.LoadWindows()
	if err != nil {
		b.Fatal(err)
	}
	defer windows.Close()
	for range 1000 {
		peer, err := n.Peer.Dial("tcp", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		defer peer.Close()
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		defer s.Close()
	}
	p := &bpf.Private{Cubic: abi.CubicState{LastMaxCwnd: 40}}
	copy(p.Control[:], "cubic")
	n.Host.Do(func() error {
		socks, err := kernel.Sockets()
		if err != nil || len(socks) != 1000 {
			b.Fatal(len(socks), err)
		}
		var list []bpf.Window
		for _, k := range socks {
			list = append(list, bpf.Window{Key: k.Flow.Key(), Cwnd: 7, Ssthresh: 5, Private: p, Inode: k.State.Inode})
		}
		log := slog.New(slog.NewTextHandler(b.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})) // which must say nothing
		for _, size := range []int{1, 1000} {
			b.Run(fmt.Sprint(size), func(b *testing.B) {
				for b.Loop() {
					bequeath(log, windows, list[:size])
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*size), "ns/connection")
			})
		}
		return nil
	})
}

// Of two windows for a socket the later one counts.
func TestLatest(t *testing.T) {
	a, b := numbered(1).Key(), numbered(2).Key()
	got := latest([]bpf.Window{{Key: a, Cwnd: 1}, {Key: b, Cwnd: 2}, {Key: a, Cwnd: 3}})
	if len(got) != 2 || got[0].Cwnd != 2 || got[1] != (bpf.Window{Key: a, Cwnd: 3}) {
		t.Errorf("%+v", got)
	}
}

// What counts time in private state goes on counting.
func TestPrivate(t *testing.T) {
	name := func(s string) (padded [16]byte) { copy(padded[:], s); return padded }
	const then, now = 1_000_000_000, mono.Time(3_500_000_000)
	model := abi.BBRState{Bandwidth: 5, MinRTT: 6, MinRTTAge: 7, CycleAge: 1<<32 - 9}
	cubic := abi.CubicState{LastMaxCwnd: 40, EpochAge: 3}
	for _, tt := range []struct {
		name string
		part abi.HardwarePart
		want *bpf.Private
	}{
		{"cubic", abi.HardwarePart{PrivateAt: then, CongestionControl: name("cubic"), Cubic: cubic, BBR: model},
			&bpf.Private{Control: name("cubic"), Cubic: abi.CubicState{LastMaxCwnd: 40, EpochAge: 2503}}},
		{"bbr", abi.HardwarePart{PrivateAt: then, CongestionControl: name("bbr"), Cubic: cubic, BBR: model},
			&bpf.Private{Control: name("bbr"), BBR: abi.BBRState{Bandwidth: 5, MinRTT: 6, MinRTTAge: 2507, CycleAge: 1<<32 - 1}}},
		{"from the future", abi.HardwarePart{PrivateAt: 1 << 62, CongestionControl: name("cubic"), Cubic: cubic},
			&bpf.Private{Control: name("cubic"), Cubic: cubic}},
		{"not published", abi.HardwarePart{CongestionControl: name("cubic"), Cubic: cubic}, nil},
		{"bbr without a model", abi.HardwarePart{PrivateAt: then, CongestionControl: name("bbr"), BBR: abi.BBRState{MinRTT: 6}}, nil},
		{"reno has none", abi.HardwarePart{PrivateAt: then, CongestionControl: name("reno")}, nil},
	} {
		got := private(now, &tt.part)
		if got == nil || tt.want == nil {
			if got != tt.want {
				t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
			}
		} else if *got != *tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, *got, *tt.want)
		}
	}
}
