package handover

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// An attacker is a device that says anything at any time. What it chooses comes from a
// generator or from a fuzzer.
type attacker struct {
	choose func(n int) int // less than n
	w      *world
	tab    *Table
	now    mono.Time

	asked    uint64            // tickets given
	awaiting map[string]string // outcomes, by ticket and flow
	wrong    error
}

const attacked = 6 // connections

func newAttacker(choose func(int) int) *attacker {
	a := &attacker{choose: choose, w: newWorld(), now: 1, awaiting: make(map[string]string)}
	a.tab = NewTable(a.w, limits)
	for n := range attacked {
		a.w.socket(n + 1)
	}
	a.serve()
	return a
}

func (a *attacker) serve() {
	a.w.slots, a.w.queue = make(map[abi.HWID]place), nil
	a.tab.Serve()
	a.tab.Issue(abi.Generations{First: 1 << 20, Step: 2}.After(a.w.generation), 8)
	a.w.generation = a.tab.issued.generations.First
}

// id is one that means something, or nearly, or nothing.
func (a *attacker) id() abi.HWID {
	switch a.choose(8) {
	case 0:
		return abi.HWID(a.choose(1<<31))<<33 ^ abi.HWID(a.choose(1<<31))
	case 1:
		return 0
	case 2:
		return abi.MakeHWID(uint32(a.choose(10)), a.w.generation+uint32(a.choose(8)))
	}
	for n := range attacked { // of a connection, if it has one
		if c := a.tab.Find(named(1 + (n+a.choose(attacked))%attacked).Key()); c != nil && c.HWID != 0 {
			return c.HWID
		}
	}
	return abi.MakeHWID(uint32(a.choose(8)), a.w.generation)
}

// say is a message of the attacker's.
func (a *attacker) say() error {
	answers := make([]abi.Answer, a.choose(4))
	for i := range answers {
		answers[i] = abi.Answer{HWID: a.id(), StallNS: uint32(a.choose(1 << 31)), Bytes: uint64(a.choose(1<<31)) << 33}
		if a.choose(3) == 0 {
			answers[i].Reason = abi.Reason(a.choose(300))
		}
	}
	h := abi.Header{Type: plausible[a.choose(len(plausible))], Count: uint16(len(answers)), Batch: a.tab.batch - uint32(a.choose(3))}
	if a.choose(40) == 0 {
		h.Type = abi.Type(a.choose(1 << 16))
	}
	if a.choose(8) != 0 && len(a.w.queue) > 0 { // the right type at least, of the right length
		m := a.w.queue[0]
		a.w.queue = a.w.queue[1:]
		h.Type, h.Batch, answers = m.kind+1, m.batch, answers[:0]
		for i := range m.offers {
			answers = append(answers, abi.Answer{HWID: a.given(i)})
		}
		for _, id := range m.ids {
			answers = append(answers, abi.Answer{HWID: id, Reason: abi.Reason(a.choose(8) / 7 * a.choose(60))})
		}
	}
	return a.tab.Answer(a.now, h, answers)
}

// given is an id for an offer: mostly as a device in order gives them.
func (a *attacker) given(i int) abi.HWID {
	if a.choose(30) == 0 {
		return a.id()
	}
	index := uint32(i)
	for used := true; used; index++ {
		used = false
		for id := range a.tab.conns {
			used = used || id.Index() == index
		}
	}
	return abi.MakeHWID(index-1, a.tab.issued.latest[index-1]+2+a.first(index-1))
}

// first is what the first generation of a slot is more than 2.
func (a *attacker) first(index uint32) uint32 {
	if a.tab.issued.latest[index] != 0 {
		return 0
	}
	return a.tab.issued.generations.First - 2
}

// plausible are the answers that do not end a device by themselves.
var plausible = []abi.Type{abi.Owned, abi.Passing, abi.Released, abi.Notice, abi.Joined, abi.Diverted, abi.Parted, abi.Resumed}

// ask is what an operator or the policy wants meanwhile.
func (a *attacker) ask() {
	id := named(1 + a.choose(attacked))
	a.asked++
	a.awaiting[fmt.Sprint(a.asked, id)] = "nothing"
	switch a.choose(8) {
	case 0:
		delete(a.awaiting, fmt.Sprint(a.asked, id))
		a.tab.UploadAll(a.now, abi.DeviceStopped)
	case 1, 2:
		a.tab.Upload(a.now, a.asked, []flow.ID{id}, abi.Asked)
	case 3:
		delete(a.awaiting, fmt.Sprint(a.asked, id))
		if c := a.tab.Find(id.Key()); c != nil {
			a.tab.Shadow(a.now, []abi.HWID{c.HWID}, abi.LeftUnread, "")
		}
	default:
		a.tab.Offload(a.now, a.now, a.asked, 0, []Candidate{{Flow: id, Bypass: a.choose(2) == 0}})
	}
}

func (a *attacker) step() {
	var err error
	switch a.choose(12) {
	case 0, 1:
		a.ask()
		err = a.tab.Err()
	case 2, 3, 4:
		if len(a.w.tasks) > 0 {
			r := abi.None
			if a.choose(4) == 0 {
				r = abi.NotRebuilt
			}
			err = a.w.perform(a.now, a.tab, r, r != abi.None && a.choose(2) == 0)
		}
	case 5:
		a.now = a.now.Add(limits.Answer / 16)
		err = a.tab.Advance(a.now)
	default:
		err = a.say()
	}
	if err != nil {
		a.lose()
	}
	a.note()
}

// lose is what the driver does with such a device.
func (a *attacker) lose() {
	for range 100 {
		if a.tab.Lost(a.now, abi.DeviceDied); a.tab.Err() == nil && a.tab.Len() == 0 {
			a.note()
			a.serve()
			return
		}
		for len(a.w.tasks) > 0 {
			a.w.perform(a.now, a.tab, abi.None, false)
		}
		a.now = a.now.Add(limits.Answer)
		a.tab.Advance(a.now)
	}
	a.wrong = fmt.Errorf("%d connections do not come home", a.tab.Len())
}

// note checks that whoever asked has one answer.
func (a *attacker) note() {
	for _, o := range a.tab.Outcomes() {
		if o.Ticket == 0 {
			continue
		}
		k := fmt.Sprint(o.Ticket, o.Flow)
		if was := a.awaiting[k]; was != "nothing" {
			a.wrong = fmt.Errorf("%s has the outcome %v after %q", k, o.Kind, was)
		}
		a.awaiting[k] = o.Kind.String()
	}
}

// check is for the end, when the device has been lost and all is home.
func (a *attacker) check() error {
	a.lose()
	a.note()
	if a.wrong != nil {
		return a.wrong
	}
	for k, was := range a.awaiting {
		if was == "nothing" {
			return fmt.Errorf("%s has no outcome", k)
		}
	}
	if len(a.w.steered)+len(a.w.frozen)+len(a.w.tied)+len(a.w.open)+a.tab.Moving()+len(a.tab.conns) != 0 {
		return fmt.Errorf("steered %v, frozen %v, tied %v, open %v, %d moving, %d ids", a.w.steered, a.w.frozen, a.w.tied, a.w.open, a.tab.Moving(), len(a.tab.conns))
	}
	for _, line := range a.w.log {
		if strings.Contains(line, " while ") {
			return fmt.Errorf("%s", line)
		}
	}
	return nil
}

// attack makes so many steps.
func attack(t *testing.T, choose func(int) int, steps int) {
	t.Helper()
	a := newAttacker(choose)
	for range steps {
		if a.step(); a.wrong != nil {
			break
		}
	}
	if err := a.check(); err != nil {
		t.Fatalf("%v\n%s", err, strings.Join(a.w.log[max(0, len(a.w.log)-60):], "\n"))
	}
}

// Whatever a device answers, each move has one outcome, and every connection comes home.
func TestHostileDevice(t *testing.T) {
	for seed := range uint64(400) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			attack(t, rand.New(rand.NewPCG(seed, 5)).IntN, 400)
		})
	}
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16})
	f.Fuzz(func(t *testing.T, octets []byte) {
		attack(t, func(n int) int {
			if len(octets) == 0 {
				return 0
			}
			v := int(octets[0])
			if n > 256 && len(octets) > 1 {
				v |= int(octets[1]) << 24
			}
			octets = octets[1:]
			return v % n
		}, min(len(octets), 1000))
	})
}

// An id is one connection's, once, and one of those that the device has.
func TestIDs(t *testing.T) {
	w := newWorld()
	tab := NewTable(w, limits)
	tab.Issue(abi.Generations{First: 11, Step: 3}, 4)
	tab.issued.offers = 3
	c := &Conn{Flow: named(1)}
	for _, tt := range []struct {
		index, generation uint32
		right             bool
	}{
		{0, 11, true}, {3, 14, true}, {3, 17, true}, {3, 20, false}, {4, 11, false}, {1 << 30, 11, false},
		{0, 8, false}, {0, 12, false}, {0, 0, false}, {0, 1<<32 - 1, false},
	} {
		if why := tab.wrong(abi.MakeHWID(tt.index, tt.generation)); (why == "") != tt.right {
			t.Errorf("%d-%d: %q", tt.index, tt.generation, why)
		}
	}
	tab.take(c, abi.MakeHWID(2, 14))
	for generation, want := range map[uint32]string{14: "taken", 17: "taken", 11: "taken"} {
		if why := tab.wrong(abi.MakeHWID(2, generation)); !strings.Contains(why, want) {
			t.Errorf("2-%d beside 2-14: %q", generation, why)
		}
	}
	tab.forget(c)
	for generation, right := range map[uint32]bool{11: false, 14: false, 17: true} {
		if why := tab.wrong(abi.MakeHWID(2, generation)); (why == "") != right {
			t.Errorf("2-%d after 2-14: %q", generation, why)
		}
	}
}

// What nobody has asked for is counted, and what answers a question is not.
func TestVainAnswers(t *testing.T) {
	w := newWorld()
	w.socket(1)
	tab := NewTable(w, limits)
	tab.Offload(1, 1, 1, 0, []Candidate{{Flow: named(1)}})
	for len(w.queue) > 0 {
		w.answer(2, tab)
	}
	if n := tab.Vain(); n != 0 {
		t.Errorf("%d answers of an offload were in vain", n)
	}
	id := tab.Find(named(1).Key()).HWID
	for _, h := range []abi.Header{{Type: abi.Owned}, {Type: abi.Released}, {Type: abi.Parted}, {Type: abi.Joined}} {
		tab.Answer(3, h, []abi.Answer{{HWID: id}, {HWID: 99}})
	}
	tab.Answer(3, abi.Header{Type: abi.Notice}, nil)
	if n := tab.Vain(); n != 9 {
		t.Errorf("%d answers were in vain", n)
	}
	if n := tab.Vain(); n != 0 {
		t.Errorf("%d are left", n)
	}
}
