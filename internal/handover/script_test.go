package handover

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"toehold/internal/abi"
	"toehold/internal/flow"
	"toehold/internal/mono"
)

// script runs the commands of one file in testdata:
//
//	open N... [state=S] [special=NAME] [window=N] [control=NAME]   sockets in the kernel
//	close N...                    the kernel has no such socket any more
//	capacity N                    slots of the device
//	refuse-own N reason=R         the device answers Own with R
//	stray N                       S has received what the device never saw
//	refuse-join N reason=R        and the next Join
//	offload N... | upload N...    requests, with ticket=N and timeout=D
//	upload-all | lost | gone N...
//	notice N reason=R
//	attach N...                   an offload to bypass
//	shadow N... reason=R          from bypass to shadow
//	perform [reason=R] [lost]     the hands end their first task
//	answer [N]                    the device answers one message, or N, or all
//	advance D                     time passes
//	fail K                        the K-th call from here fails
//	check                         the promises of a Table at rest
type script struct {
	w   *world
	t   *Table
	now mono.Time
}

func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata", func(t *testing.T, path string) {
		w := newWorld()
		s := &script{w: w, t: NewTable(w, Limits{Answer: time.Second, Own: 5 * time.Second}), now: 1}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			w.log = nil
			err := s.run(t, d)
			return s.report(err)
		})
	})
}

func (s *script) report(err error) string {
	var b strings.Builder
	for _, l := range s.w.log {
		fmt.Fprintln(&b, l)
	}
	for _, o := range s.t.Outcomes() {
		fmt.Fprintf(&b, "= %s %s", nameOf(o.Flow), o.Kind)
		if o.Ticket != 0 {
			fmt.Fprintf(&b, " ticket=%d", o.Ticket)
		}
		if o.HWID != 0 {
			fmt.Fprintf(&b, " id=%s", o.HWID)
		}
		fmt.Fprintf(&b, " %s took=%v", o.Reason, o.Took.Round(time.Millisecond))
		if o.Attachment == abi.AttachBypass {
			b.WriteString(" bypass")
		}
		if o.Short != abi.None {
			fmt.Fprintf(&b, " short=%s", o.Short)
		}
		if o.Detail != "" && o.Detail != o.Reason.Text() {
			fmt.Fprintf(&b, " (%s)", o.Detail)
		}
		b.WriteByte('\n')
	}
	if err != nil {
		fmt.Fprintln(&b, "error:", err)
	}
	if b.Len() == 0 {
		return "ok\n"
	}
	return b.String()
}

func numbers(d *datadriven.TestData) []int {
	var ns []int
	for _, a := range d.CmdArgs {
		var n int
		if _, err := fmt.Sscanf(a.Key, "%d", &n); err == nil {
			ns = append(ns, n)
		}
	}
	return ns
}

func flows(ns []int) []flow.ID {
	var ids []flow.ID
	for _, n := range ns {
		ids = append(ids, named(n))
	}
	return ids
}

func text(d *datadriven.TestData, key, otherwise string) string {
	if a, ok := d.Arg(key); ok && len(a.Vals) > 0 {
		return a.Vals[0]
	}
	return otherwise
}

func (s *script) run(t *testing.T, d *datadriven.TestData) error {
	ns := numbers(d)
	reason, _ := abi.ParseReason(text(d, "reason", "asked"))
	var ticket uint64
	fmt.Sscan(text(d, "ticket", "0"), &ticket)
	switch d.Cmd {
	case "open":
		s.open(t, d, ns)
	case "close":
		for _, n := range ns {
			delete(s.w.sockets, named(n).Key())
		}
	case "capacity":
		s.w.capacity = ns[0]
	case "refuse-own":
		s.w.refuseOwn[named(ns[0]).Key()] = reason
	case "refuse-resume":
		s.w.refuseResume[named(ns[0]).Key()] = reason
	case "stray":
		s.w.strayed[named(ns[0]).Key()] = true
	case "refuse-join":
		s.w.refuseJoin[named(ns[0]).Key()] = reason
	case "offload", "attach":
		timeout, _ := time.ParseDuration(text(d, "timeout", "0"))
		var cands []Candidate
		for _, id := range flows(ns) {
			cands = append(cands, Candidate{Flow: id, Bypass: d.Cmd == "attach"})
		}
		s.t.Offload(s.now, s.now, ticket, timeout, cands)
		return s.t.Err()
	case "shadow":
		var ids []abi.HWID
		for _, n := range ns {
			ids = append(ids, s.t.Find(named(n).Key()).HWID)
		}
		return s.t.Shadow(s.now, ids, reason, "")
	case "perform":
		r, _ := abi.ParseReason(text(d, "reason", ""))
		return s.w.perform(s.now, s.t, r, d.HasArg("lost"))
	case "upload":
		s.t.Upload(s.now, ticket, flows(ns), reason)
		return s.t.Err()
	case "upload-all":
		s.t.UploadAll(s.now, reason)
		slices.SortFunc(s.t.done, func(a, b Outcome) int { return strings.Compare(nameOf(a.Flow), nameOf(b.Flow)) })
		return s.t.Err()
	case "lost":
		s.w.slots, s.w.queue = make(map[abi.HWID]place), nil
		err := s.t.Lost(s.now, reason)
		slices.SortFunc(s.t.done, func(a, b Outcome) int { return strings.Compare(nameOf(a.Flow), nameOf(b.Flow)) })
		return err
	case "gone":
		return s.t.Gone(s.now, flows(ns))
	case "notice":
		id := s.t.Find(named(ns[0]).Key()).HWID
		return s.t.Answer(s.now, abi.Header{Type: abi.Notice}, []abi.Answer{{HWID: id, Reason: reason}})
	case "answer":
		return s.answer(ns)
	case "advance":
		step, err := time.ParseDuration(d.CmdArgs[0].Key)
		if err != nil {
			t.Fatal(err)
		}
		s.now = s.now.Add(step)
		return s.t.Advance(s.now)
	case "fail":
		s.w.failAt = s.w.calls + ns[0]
	case "check":
		return s.w.check(s.t)
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	return nil
}

func (s *script) open(t *testing.T, d *datadriven.TestData, ns []int) {
	for _, n := range ns {
		k := s.w.socket(n)
		fmt.Sscan(text(d, "window", "65535"), &k.SndWnd)
		fmt.Sscan(text(d, "state", "1"), &k.State)
		copy(k.CongestionControl[:], text(d, "control", ""))
		if r, _ := abi.ParseReason(text(d, "special", "")); r != abi.None {
			i := slices.IndexFunc(specials[:], func(x struct {
				bit    uint32
				reason abi.Reason
			}) bool {
				return x.reason == r
			})
			if i < 0 {
				t.Fatalf("%v is no special", r)
			}
			k.Special = specials[i].bit
		}
	}
}

func (s *script) answer(ns []int) error {
	count := 1000 // more than any script has waiting
	if len(ns) > 0 {
		count = ns[0]
	}
	var all error
	for ; count > 0 && len(s.w.queue) > 0; count-- {
		all = errors.Join(all, s.w.answer(s.now, s.t))
	}
	return all
}
