package device

import (
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/tcb"
)

// offered is what the device answers to offers, in their order.
func (w *world) offered(offers ...abi.Offer) (all []abi.Reason) {
	w.t.Helper()
	w.device.Handle(w.now, abi.Append(nil, abi.Admit, 1, offers))
	w.turnDevice()
	for range offers {
		a, ok := w.answer(abi.Admitted)
		if !ok {
			w.t.Fatalf("%d offers, and only %d answers", len(offers), len(all))
		}
		all = append(all, a.Reason)
	}
	return all
}

func offerOf(n int, flags uint32) abi.Offer {
	k := testKey
	k.RemotePort[1] += byte(n)
	return abi.Offer{Key: k, MSS: mss, Flags: flags}
}

// Each connection of a batch has an answer of its own, in order.
func TestBatchIsAnsweredOneByOne(t *testing.T) {
	w := plainWorld(t, true, true)
	w.device.capability.Without = admission.ECN
	bad := offerOf(5, 0)
	bad.Key = flow.Key{}
	newton := offerOf(6, 0)
	copy(newton.CongestionControl[:], "newton")
	got := w.offered(offerOf(1, abi.FlagSACK), offerOf(2, abi.FlagECN), bad, newton, offerOf(1, 0), offerOf(3, 1<<30), offerOf(4, 0), offerOf(7, 0), offerOf(8, 0), offerOf(9, 0))
	want := []abi.Reason{abi.None, abi.ProtocolFeature, abi.InternalError, abi.CongestionControl, abi.AlreadyOnDevice, abi.ProtocolFeature, abi.None, abi.None, abi.None, abi.DeviceFull}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("offer %d: %v, want %v", i, got[i], want[i])
		}
	}
}

// A device whose loop has no time takes nobody until it has clearly less to
// do, and keeps what it has.
func TestNoTime(t *testing.T) {
	w := plainWorld(t, true, true)
	w.device.gates = gates{busy: admission.Gate{Limit: 90}, segments: admission.Gate{Limit: 1000}}
	n := 0
	for i, tt := range []struct {
		share    float64
		segments uint64 // of a second
		want     abi.Reason
	}{
		{0.5, 0, abi.None},
		{0.95, 0, abi.DeviceCPU},
		{0.85, 0, abi.DeviceCPU},
		{0.70, 0, abi.None},
		{0.70, 5000, abi.DeviceSegments},
		{0.70, 0, abi.DeviceSegments}, // smoothed: 1 250
		{0.70, 0, abi.None},
	} {
		w.now = w.now.Add(time.Second)
		w.device.traffic.SegsSent += tt.segments / 2
		w.device.traffic.SegsReceived += tt.segments - tt.segments/2
		w.device.gauge(w.now, tt.share)
		n++
		if got := w.offered(offerOf(n, 0))[0]; got != tt.want {
			t.Errorf("step %d: %v, want %v; %v segments a second", i, got, tt.want, w.device.gates.rate)
		}
	}
}

// notice waits for what the device says by itself.
func (w *world) notice(within time.Duration) (abi.Reason, time.Duration) {
	from := w.now
	for w.now < from.Add(within) {
		w.step()
		if a, ok := w.answer(abi.Notice); ok {
			return a.Reason, w.now.Sub(from)
		}
	}
	return abi.None, within
}

// more has both ends send n octets more.
func (w *world) more(n int) {
	for _, ends := range [2][2]*endpoint{{w.program, w.peer}, {w.peer, w.program}} {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(w.r.Uint32())
		}
		ends[0].toSend = append(ends[0].toSend, b...)
		ends[1].want = append(ends[1].want, b...)
		ends[0].run()
	}
}

// A peer that does not answer retransmissions for as long as R2 is the
// kernel's to give up; one that answers now and then is not.
func TestRecoveryTimeout(t *testing.T) {
	w := plainWorld(t, true, true)
	w.ownNow()
	w.more(20_000)
	w.runFor(10 * time.Second)
	w.faults.lose = 1
	w.more(20_000)
	why, after := w.notice(time.Hour)
	if why != abi.RecoveryTimeout || after < recoveryWithin || after > 2*recoveryWithin+time.Minute {
		t.Errorf("%v after %v", why, after)
	}
	w.faults.lose = 0
	var s tcb.Snapshot
	if w.state(&s); s.State != tcb.Established {
		t.Errorf("the program's connection is in state %v", s.State)
	}
	w.runFor(10 * time.Minute)
	if len(w.peer.got) != 40_000 || len(w.program.got) != 40_000 {
		t.Errorf("not all has arrived: %v", w)
	}
}

// Each acknowledgement of something new begins anew.
func TestDeadlock(t *testing.T) {
	var l deadlock
	at := plainWorld(t, true, true).now
	for i, tt := range []struct {
		after time.Duration
		una   uint32
		want  bool
	}{{0, 1, false}, {99, 1, false}, {100, 1, true}, {101, 2, false}, {200, 2, false}, {201, 2, true}} {
		if got := l.lasts(at.Add(tt.after*time.Second), seqOf(tt.una)); got != tt.want {
			t.Errorf("timeout %d: %v", i, got)
		}
	}
}
