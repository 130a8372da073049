package device

import (
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/mono"
	"toehold/internal/seqnum"
	"toehold/internal/tcb"
)

// What the kernel knew of the path is what the engine begins with.
func TestRecall(t *testing.T) {
	k := abi.KernelState{
		SndUna: 1000, SRTT: 25_000, RTTVar: 3_000, RTO: 225_000, MinRTT: 20_000, SndCwnd: 1, SndSsthresh: 7,
		Backoff: 3, ProbesOut: 2, TSRecent: 77, TSRecentAge: 5, ReorderingSeen: 9, ReoWndSteps: 4,
		Cubic: abi.CubicState{LastMaxCwnd: 40, Origin: 38, TCPCwnd: 21, K: 2_500_000, EpochAge: 1500, DelayMin: 19_000, InEpoch: 1, Found: 1},
	}
	copy(k.CongestionControl[:], "cubic")
	c := new(conn)
	c.learn(mono.Time(time.Hour), &k)
	c.stampPeer = stamp{val: 77, seen: true}
	got := tcb.Snapshot{SndUna: 1000}
	c.recall(mono.Time(time.Hour).Add(2*time.Second), &got)
	ms := time.Millisecond
	want := tcb.Snapshot{
		SndUna: 1000, SRTT: 25 * ms, RTTVar: 3 * ms, RTO: 225 * ms, MinRTT: 20 * ms, Cwnd: 1, Ssthresh: 7,
		Backoff: 3, Probes: 2, TSRecentAge: 7 * time.Second, ReorderingSeen: true, ReoWndMult: 4, CC: "cubic",
		CCState: tcb.CCState{Cubic: tcb.Cubic{WMax: 40, Origin: 38, WEst: 21, K: 2500 * ms, Epoch: 1500 * ms, DelayMin: 19 * ms, InEpoch: true, Found: true}},
	}
	if !same(&got, &want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	// The peer has answered since, with a later timestamp.
	c.stampPeer.val = 78
	got = tcb.Snapshot{SndUna: 2000}
	c.recall(mono.Time(time.Hour), &got)
	if got.Backoff != 0 || got.Probes != 0 || got.TSRecentAge != 0 {
		t.Errorf("after an answer: %+v", got)
	}
}

func same(a, b *tcb.Snapshot) bool {
	return a.SRTT == b.SRTT && a.RTTVar == b.RTTVar && a.RTO == b.RTO && a.MinRTT == b.MinRTT &&
		a.Cwnd == b.Cwnd && a.Ssthresh == b.Ssthresh && a.Backoff == b.Backoff && a.Probes == b.Probes &&
		a.TSRecentAge == b.TSRecentAge && a.ReorderingSeen == b.ReorderingSeen && a.ReoWndMult == b.ReoWndMult &&
		a.CC == b.CC && a.CCState == b.CCState
}

// The private states of BBR and DCTCP, and one that breaks its promises.
func TestPrivateStates(t *testing.T) {
	for _, tt := range []struct {
		name  string
		state abi.KernelState
		want  tcb.CCState
	}{
		{"bbr", abi.KernelState{BBR: abi.BBRState{
			Bandwidth: 1 << 40, FullBandwidth: 3, LongTerm: 4, MinRTT: 5, MinRTTAge: 6, CycleAge: 7, PriorCwnd: 8, ExtraAcked: 9,
			PacingGain: 320, CwndGain: 512, Mode: 2, CycleIndex: 7, FullCount: 3, Filled: 1,
		}}, tcb.CCState{BBR: tcb.BBR{
			Bandwidth: 1 << 40, FullBandwidth: 3, LongTerm: 4, MinRTT: 5 * time.Microsecond, MinRTTAge: 6 * time.Millisecond,
			CycleAge: 7 * time.Microsecond, PriorCwnd: 8, ExtraAcked: 9, PacingGain: 1.25, CwndGain: 2, Mode: tcb.BBRProbeBW, CycleIndex: 7, FullCount: 3, Filled: true,
		}}},
		{"dctcp", abi.KernelState{DCTCP: abi.DCTCPState{Alpha: 256, LossCwnd: 11, CE: 1}}, tcb.CCState{DCTCP: tcb.DCTCP{Alpha: 0.25, LossCwnd: 11, CE: true}}},
		{"bbr in no mode", abi.KernelState{BBR: abi.BBRState{Mode: 5, MinRTT: 5}}, tcb.CCState{}},
		{"too much alpha", abi.KernelState{DCTCP: abi.DCTCPState{Alpha: math.MaxUint32}}, tcb.CCState{}},
	} {
		c := new(conn)
		c.learn(mono.Time(time.Hour), &tt.state)
		if c.private != tt.want {
			t.Errorf("%s: %+v, want %+v", tt.name, c.private, tt.want)
		}
	}
}

// What is published of the private state is what the driver wrote of it.
func TestPrivateStatesGoBack(t *testing.T) {
	want := abi.KernelState{
		BBR: abi.BBRState{
			Bandwidth: 1 << 40, FullBandwidth: 3, LongTerm: 4, MinRTT: 5, MinRTTAge: 6, CycleAge: 7, PriorCwnd: 8, ExtraAcked: 9,
			PacingGain: 739, CwndGain: 512, Mode: 2, CycleIndex: 7, FullCount: 3, Filled: 1,
		},
		Cubic: abi.CubicState{LastMaxCwnd: 40, Origin: 38, TCPCwnd: 21, K: 2_500_001, EpochAge: 1500, DelayMin: 19_001, InEpoch: 1, Found: 1},
	}
	state := privateOf(&want)
	if got := bbrOf(&state.BBR); got != want.BBR {
		t.Errorf("%+v, want %+v", got, want.BBR)
	}
	if got := cubicOf(&state.Cubic); got != want.Cubic {
		t.Errorf("%+v, want %+v", got, want.Cubic)
	}
	far := tcb.CCState{
		BBR:   tcb.BBR{MinRTT: math.MaxInt64, CycleAge: -1, PacingGain: 1e300},
		Cubic: tcb.Cubic{WMax: math.Inf(1), Origin: -1, WEst: 1.5},
	}
	if b, q := bbrOf(&far.BBR), cubicOf(&far.Cubic); b.MinRTT != math.MaxUint32 || b.CycleAge != 0 || b.PacingGain != math.MaxUint16 ||
		q.LastMaxCwnd != math.MaxUint32 || q.Origin != 0 || q.TCPCwnd != 2 {
		t.Errorf("out of range: %+v, %+v", b, q)
	}
}

// What the peer has selectively acknowledged goes along: to the device, since
// it saw the acknowledgements go by, and home to S.
func TestSACKsCross(t *testing.T) {
	for _, ts := range []bool{false, true} {
		w := plainWorld(t, ts, true)
		id := w.ownNow()
		w.fill(4<<20, 0)
		w.faults.lose = 0.1
		c := w.device.find(id)
		var here, home scoreboard
		for n := 0; n < 2000 && len(here) == 0; n++ {
			w.step()
			for w.turnDevice() {
			}
			c.wire.Sacked(func(r seqnum.Range) { here.add(r) })
		}
		w.faults.lose = 0
		if len(here) == 0 {
			t.Fatal("the device has no SACKed ranges")
		}
		w.command(abi.Pass, id)
		for w.turnDevice() {
		}
		w.program.conn.Sacked(func(r seqnum.Range) { home.add(r) })
		if !slices.Equal(home, here) {
			t.Errorf("timestamps %t: S knows of %v, the device of %v", ts, home, here)
		}
		if again := w.device.find(id).out.sacked; !slices.Equal(again, here) {
			t.Errorf("timestamps %t: the next engine would know of %v", ts, again)
		}
		w.steered = false
		w.runFor(time.Minute)
		if len(w.peer.got) != len(w.peer.want) {
			t.Errorf("%v", w)
		}
	}
}

// When the second engine refuses its state, the first has taken the copies
// over already. Each is given back once, and the connection goes on.
func TestASnapshotThatIsRefused(t *testing.T) {
	w := plainWorld(t, true, true)
	w.fill(4<<20, 4<<20)
	id := w.admit()
	w.steered = true
	w.runFor(3 * time.Millisecond)
	c := w.device.find(id)
	for n := 0; n < 2000 && len(c.out.held) == 0; n++ {
		w.step()
	}
	if len(c.out.held) == 0 {
		t.Fatal("the device holds no copies")
	}
	k := w.program.kernelState()
	c.learn(w.now, &k)
	w.device.settle(c, &abi.KernelPart{State: k})
	c.in.sacked = scoreboard{{Lo: c.in.una.Add(9), Hi: c.in.una.Add(3)}} // breaks a promise
	held := c.out.held[0].Buf
	held.Retain()
	if err := w.device.own(w.now, c); err == nil || !strings.Contains(err.Error(), "promise 9") {
		t.Fatalf("got %v", err)
	}
	held.Release()
	w.runFor(time.Minute)
	if len(w.peer.got) != len(w.peer.want) || len(w.program.got) != len(w.program.want) {
		t.Errorf("%v", w)
	}
	if held := c.out.octets; len(c.out.held) == 0 && held != 0 {
		t.Errorf("%d octets are counted and none held", held)
	}
}
