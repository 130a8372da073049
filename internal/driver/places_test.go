package driver

import (
	"log/slog"
	"testing"
	"time"

	"toehold/internal/abi"
	"toehold/internal/admission"
	"toehold/internal/flow"
	"toehold/internal/handover"
	"toehold/internal/mono"
)

// obedient are hands whose device takes every connection and gives back each
// that it is told to, when the test calls work.
type obedient struct {
	handover.Hands // for what is not asked of it

	said       []message
	generation uint32
	clings     bool       // answers no Pass and no Release
	refuses    abi.Reason // whoever is offered
}

type message struct {
	kind   abi.Type
	batch  uint32
	ids    []abi.HWID
	reason abi.Reason
}

func (o *obedient) Probe(keys []flow.Key, out []abi.KernelState) error {
	for i := range keys {
		out[i] = abi.KernelState{State: 1, MSS: 1448}
	}
	return nil
}

func (o *obedient) Steer([]flow.Key, []abi.HWID) error { return nil }
func (o *obedient) Unsteer([]flow.Key) error           { return nil }
func (o *obedient) Inherit([]*handover.Conn)           {}
func (o *obedient) Describe(*handover.Conn) error      { return nil }

func (o *obedient) Offer(batch uint32, offers []abi.Offer) error {
	m := message{kind: abi.Admitted, batch: batch, reason: o.refuses}
	for range offers {
		o.generation++
		m.ids = append(m.ids, abi.MakeHWID(o.generation, o.generation))
	}
	o.said = append(o.said, m)
	return nil
}

func (o *obedient) Command(t abi.Type, ids []abi.HWID) error {
	if !o.clings || t == abi.Own {
		o.said = append(o.said, message{kind: t + 1, ids: append([]abi.HWID(nil), ids...)})
	}
	return nil
}

// work has the device answer until there is nothing left to say.
func (o *obedient) work(t *testing.T, u *uplink) {
	t.Helper()
	for u.settle(); len(o.said) > 0; u.settle() {
		m := o.said[0]
		o.said = o.said[1:]
		var answers []abi.Answer
		for _, id := range m.ids {
			answers = append(answers, abi.Answer{HWID: id, Reason: m.reason})
		}
		if err := u.table.Answer(mono.Now(), abi.Header{Type: m.kind, Count: uint16(len(answers)), Batch: m.batch}, answers); err != nil {
			t.Fatal(err)
		}
	}
}

// smallUplink is one with an obedient device of so many places.
func smallUplink(places int, l admission.Limits) (*uplink, *obedient) {
	u := newUplink("eth9", &Config{MaxConnections: places, Limits: l, Log: slog.New(slog.DiscardHandler)}, testJournal(), newHeirs())
	o := new(obedient)
	u.table = handover.NewTable(o, handover.Limits{Answer: time.Minute, Own: time.Minute})
	u.up, u.proc = true, &process{greeting: abi.Greeting{Version: abi.Version}}
	return u, o
}

// claimed is a candidate of the policy's.
func claimed(n int, c admission.Claim) candidate {
	one := candidates(n)[0]
	one.claim = c
	return one
}

// become says what became of candidates, in their order: their reasons.
func become(t *testing.T, u *uplink, o *obedient, cands ...candidate) (all []abi.Reason) {
	t.Helper()
	done := u.offload(mono.Now(), Options{why: asked}, cands)
	o.work(t, u)
	by := make(map[flow.ID]abi.Reason)
	select {
	case outcomes := <-done:
		for i := range outcomes {
			by[outcomes[i].Flow] = outcomes[i].Reason
			if outcomes[i].Kind == handover.Offloaded {
				by[outcomes[i].Flow] = abi.None
			}
		}
	default:
		t.Fatal("not all have an outcome")
	}
	for i := range cands {
		all = append(all, by[cands[i].Flow])
	}
	return all
}

func same(a []abi.Reason, b ...abi.Reason) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// On a full device the least useful connection goes home for a more useful
// one, which waits until it has.
func TestMakesRoom(t *testing.T) {
	u, o := smallUplink(2, admission.Limits{})
	slow, fast := admission.Claim{Rate: 20_000}, admission.Claim{Rate: 1_000_000}
	if r := become(t, u, o, claimed(1, slow), claimed(2, fast), claimed(3, admission.Claim{})); !same(r, abi.None, abi.None, abi.DeviceFull) {
		t.Fatalf("of three: %v", r)
	}
	if r := become(t, u, o, claimed(3, fast), claimed(2, fast), claimed(4, slow)); !same(r, abi.None, abi.AlreadyOnDevice, abi.DeviceFull) {
		t.Fatalf("of two more: %v", r)
	}
	if u.table.Find(numbered(1).Key()) != nil || u.table.Find(numbered(3).Key()) == nil || u.roster.Len() != 2 || len(u.latecomers) != 0 || len(u.makeRoom) != 0 {
		t.Errorf("%d places, %d wait, %d make room", u.roster.Len(), len(u.latecomers), len(u.makeRoom))
	}
	var home []Event
	for _, e := range u.journal.Events() {
		if e.Kind == EventUploaded {
			home = append(home, e)
		}
	}
	if len(home) != 1 || home[0].Reason != "displaced" || home[0].Detail != "it made room for "+numbered(3).String() {
		t.Errorf("went home: %+v", home)
	}
	u.table.UploadAll(mono.Now(), abi.Asked)
	o.work(t, u)
	if u.roster.Len() != 0 {
		t.Errorf("%d places are taken on an empty device", u.roster.Len())
	}
}

// Nobody makes room for a connection that cannot be offloaded, and that is told
// the reason which lasts, not that the device is full.
func TestNobodyLeavesInVain(t *testing.T) {
	for _, tt := range []struct {
		edit func(c *Config, s *abi.KernelState)
		want abi.Reason
	}{
		{func(_ *Config, s *abi.KernelState) { s.State = 4 }, abi.NotEstablished},
		{func(_ *Config, s *abi.KernelState) { s.Special = abi.SpecialIPOptions }, abi.IPOptions},
		{func(_ *Config, s *abi.KernelState) { s.Special = abi.SpecialMissing }, abi.NoConnection},
		{func(c *Config, _ *abi.KernelState) { c.Capability.Without = admission.IPv4 }, abi.ProtocolFeature},
		{func(c *Config, s *abi.KernelState) {
			c.Capability.Without, s.Flags = admission.SACK, abi.FlagSACK
		}, abi.ProtocolFeature},
		{func(_ *Config, s *abi.KernelState) { copy(s.CongestionControl[:], "vegas") }, abi.CongestionControl},
		{func(c *Config, s *abi.KernelState) {
			copy(s.CongestionControl[:], "vegas")
			c.Controls = Controls{"vegas": "cubic"}
		}, abi.None},
	} {
		for _, claim := range []admission.Claim{{Asked: true}, {}} {
			u, o := smallUplink(1, admission.Limits{})
			become(t, u, o, claimed(1, admission.Claim{Priority: 1}))
			c := claimed(2, claim)
			tt.edit(u.cfg, c.state)
			want := tt.want
			if want == abi.None && !claim.Asked {
				want = abi.DeviceFull
			}
			if r := become(t, u, o, c); !same(r, want) {
				t.Errorf("%+v became %v, want %v", claim, r, want)
			}
			if has := u.table.Find(numbered(1).Key()) != nil; has != (want != abi.None) || u.roster.Len() != 1 {
				t.Errorf("%v: the other one is on the device: %v; %d places", want, has, u.roster.Len())
			}
		}
	}
}

// A device that refuses all the same has nobody rest for it.
func TestMadeRoomInVain(t *testing.T) {
	u, o := smallUplink(1, admission.Limits{})
	become(t, u, o, claimed(1, admission.Claim{}))
	o.refuses = abi.DeviceCPU
	if r := become(t, u, o, claimed(2, admission.Claim{Priority: 1})); !same(r, abi.DeviceCPU) {
		t.Fatalf("the second: %v", r)
	}
	o.refuses = abi.None
	become(t, u, o, claimed(3, admission.Claim{}))
	if r := become(t, u, o, claimed(1, admission.Claim{Priority: 1})); !same(r, abi.None) {
		t.Fatalf("the first: %v", r)
	}
	become(t, u, o, claimed(2, admission.Claim{Priority: 2}))
	if r := become(t, u, o, claimed(1, admission.Claim{Priority: 3})); !same(r, abi.DeviceFull) {
		t.Errorf("the first, that has made room for the second: %v", r)
	}
}

// A connection that waits for one that does not go has an end to its wait, and
// so when there is no device any more; each request for it is answered.
func TestNobodyMakesRoom(t *testing.T) {
	useful := admission.Claim{Priority: 1}
	for _, tt := range []struct {
		what string
		pass func(u *uplink) // what happens meanwhile
		want abi.Reason
	}{
		{"the device keeps it", func(u *uplink) { u.fill(mono.Now().Add(roomWithin)) }, abi.DeviceFull},
		{"the uplink goes", func(u *uplink) { u.up = false }, abi.UplinkGone},
		{"the device is replaced", func(u *uplink) { u.draining = func() {} }, abi.DeviceStopped},
	} {
		t.Run(tt.what, func(t *testing.T) {
			u, o := smallUplink(1, admission.Limits{})
			become(t, u, o, claimed(1, admission.Claim{}))
			o.clings = true
			waits := u.offload(mono.Now(), Options{why: asked}, []candidate{claimed(2, useful)})
			if r := become(t, u, o, claimed(2, useful), claimed(3, useful)); !same(r, abi.Moving, abi.DeviceFull) {
				t.Errorf("meanwhile: %v", r)
			}
			if len(u.latecomers) != 1 {
				t.Fatalf("%d wait", len(u.latecomers))
			}
			tt.pass(u)
			o.work(t, u)
			if got := <-waits; len(got) != 1 || got[0].Reason != tt.want || got[0].Detail == "" {
				t.Errorf("it waited for %+v", got)
			}
			if len(u.latecomers) != 0 || len(u.makeRoom) != 0 || len(u.requests) != 0 || u.roster.Len() != 1 {
				t.Errorf("%d wait, %d requests, %d places", len(u.latecomers), len(u.requests), u.roster.Len())
			}
		})
	}
}

// One that is on its way to the device is not turned round.
func TestNotTurnedRound(t *testing.T) {
	u, o := smallUplink(1, admission.Limits{})
	first := u.offload(mono.Now(), Options{why: asked}, []candidate{claimed(1, admission.Claim{})})
	second := u.offload(mono.Now(), Options{why: asked}, []candidate{claimed(2, admission.Claim{Priority: 1})})
	o.work(t, u)
	if got := <-second; got[0].Reason != abi.DeviceFull {
		t.Errorf("the second: %+v", got)
	}
	if got := <-first; got[0].Kind != handover.Offloaded || u.roster.Len() != 1 {
		t.Errorf("the first: %+v", got)
	}
}

// However many apply while the device says nothing, no more wait in the driver
// than there are places, and each request is answered.
func TestFloodWaitsNowhere(t *testing.T) {
	const places = 8
	u, o := smallUplink(places, admission.Limits{})
	for i := range places {
		become(t, u, o, claimed(i+1, admission.Claim{}))
	}
	o.clings = true
	for round := range 100 {
		var flood []candidate
		for i := range 100 {
			flood = append(flood, claimed(100+100*round+i, admission.Claim{Priority: i}))
		}
		u.offload(mono.Now(), Options{why: asked}, flood)
		u.settle()
		if u.table.Len() > places || len(u.latecomers) > places || u.roster.Len() > 2*places || len(u.requests) > places {
			t.Fatalf("round %d: %d in the table, %d wait, %d in the roster, %d requests", round, u.table.Len(), len(u.latecomers), u.roster.Len(), len(u.requests))
		}
	}
}
