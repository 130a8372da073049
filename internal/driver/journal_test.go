package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/flow"
)

func numbered(n int) flow.ID {
	return flow.Make(netip.MustParseAddrPort("10.0.0.1:80"), netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(n)))
}

func testJournal() *Journal {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	return NewJournal(func() time.Time { at = at.Add(time.Second); return at })
}

func TestJournalKeepsTheLast(t *testing.T) {
	j := testJournal()
	for n := range keptEvents + 10 {
		j.Add(Event{Kind: EventOffloaded, Count: n})
	}
	events := j.Events()
	if len(events) != keptEvents || events[0].Count != 10 || events[keptEvents-1].Count != keptEvents+9 {
		t.Errorf("%d events, from %d to %d", len(events), events[0].Count, events[len(events)-1].Count)
	}
	for i := range events[1:] {
		if !events[i].Time.Before(events[i+1].Time) {
			t.Fatalf("event %d is not before the next", i)
		}
	}
}

func TestHistory(t *testing.T) {
	j, id := testJournal(), numbered(1)
	view := func(inode uint64) Connection {
		c := Connection{Local: id.Local, Remote: id.Remote}
		j.fill(&c, inode)
		return c
	}
	j.AddMove(id, 5, Event{Kind: EventRefused, Reason: "device-full"})
	j.AddMove(id, 5, Event{Kind: EventOffloaded, Reason: "asked", ID: "3-1", Elapsed: 7})
	j.AddMove(id, 5, Event{Kind: EventUploaded, Reason: "device-died"})
	j.carry(id, 3)
	j.carry(numbered(99), 3) // nobody knows it
	if c := view(5); c.Retransmits != 3 || c.Offloads != 1 || c.Uploads != 1 || c.Reason != "device-died" {
		t.Errorf("the view is %+v", c)
	}
	moves := j.moves(id, 5)
	if len(moves) != 3 || moves[0].Reason != "device-full" || moves[1].ID != "3-1" || moves[1].Elapsed != 7 {
		t.Errorf("the moves are %+v", moves)
	}
	if e := j.Events()[1]; e.Local != "10.0.0.1:80" || e.Remote != "10.0.0.2:1" {
		t.Errorf("the event is %+v", e)
	}
	// Another socket with the same four-tuple is another connection.
	if c := view(6); c.Offloads != 0 || c.Reason != "" {
		t.Errorf("a stranger's view is %+v", c)
	}
	if moves := j.moves(id, 6); moves == nil || len(moves) != 0 {
		t.Errorf("a stranger's moves are %v", moves)
	}
	j.AddMove(id, 6, Event{Kind: EventOffloaded, Reason: "asked"})
	if c := view(6); c.Offloads != 1 || c.Uploads != 0 {
		t.Errorf("the successor's view is %+v", c)
	}
	j.AddMove(id, 6, Event{Kind: EventEnded, Reason: "closed"})
	if j.remembered() != 0 {
		t.Error("a connection that ended is remembered")
	}
}

func TestHistoryIsBounded(t *testing.T) {
	j := testJournal()
	for n := range keptMoves + 3 {
		j.AddMove(numbered(1), 5, Event{Kind: EventOffloaded, Elapsed: int64(n)})
	}
	moves := j.moves(numbered(1), 5)
	if len(moves) != keptMoves || moves[0].Elapsed != 3 {
		t.Errorf("%d moves from %d", len(moves), moves[0].Elapsed)
	}
	c := Connection{Local: numbered(1).Local, Remote: numbered(1).Remote}
	if j.fill(&c, 5); c.Offloads != keptMoves+3 {
		t.Errorf("%d offloads counted", c.Offloads)
	}
	// A socket that waits to be accepted gets its inode later.
	j.AddMove(numbered(2), 0, Event{Kind: EventRefused})
	j.AddMove(numbered(2), 9, Event{Kind: EventOffloaded})
	if moves := j.moves(numbered(2), 9); len(moves) != 2 || len(j.moves(numbered(2), 0)) != 2 || len(j.moves(numbered(2), 8)) != 0 {
		t.Errorf("its moves are %+v", moves)
	}
	j.prune(func(k flow.Key, inode uint64) bool { return inode != 5 && inode != 9 })
	if j.remembered() != 0 {
		t.Error("a pruned history is there")
	}
}

func TestFollow(t *testing.T) {
	j := testJournal()
	j.Add(Event{Count: 1})
	past, f := j.Follow()
	j.Add(Event{Count: 2})
	if len(past) != 1 || past[0].Count != 1 {
		t.Errorf("the past is %+v", past)
	}
	if e := <-f.C; e.Count != 2 {
		t.Errorf("then came %+v", e)
	}
	f.Close()
	f.Close()
	if _, ok := <-f.C; ok {
		t.Error("a closed follower is given events")
	}
	j.Add(Event{Count: 3})
}

// A follower that does not take its events is dropped and told so; the others
// are not held up.
func TestSlowFollower(t *testing.T) {
	j := testJournal()
	_, slow := j.Follow()
	_, quick := j.Follow()
	for n := range 2 * followerQueue {
		j.Add(Event{Count: n})
		if e := <-quick.C; e.Count != n {
			t.Fatalf("the quick one got %+v for %d", e, n)
		}
	}
	var last Event
	count := 0
	for e := range slow.C {
		last = e
		count++
	}
	if last.Kind != EventDropped || count != followerQueue {
		t.Errorf("the slow one got %d events, the last %+v", count, last)
	}
	slow.Close()
	quick.Close()
}

func TestClaim(t *testing.T) {
	const index = 999999 // no interface has it
	c, err := claimUplink("eth9", index)
	if err != nil {
		t.Fatal(err)
	}
	_, err = claimUplink("eth9", index)
	want := fmt.Sprintf("uplink eth9 is served already by process %d", os.Getpid())
	if err == nil || err.Error() != want {
		t.Errorf("the second gets %v, want %q", err, want)
	}
	other, err := claimUplink("eth8", index-1)
	if err != nil {
		t.Errorf("another uplink: %v", err)
	}
	other.release()
	c.release()
	c, err = claimUplink("eth9", index)
	if err != nil {
		t.Fatalf("after its release: %v", err)
	}
	c.release()
	c.release() // again
}

// A killed daemon's file is no claim, whatever stands in it; and nobody but
// root can make one.
func TestClaimLeftBehind(t *testing.T) {
	path := filepath.Join(t.TempDir(), "made", "uplink-1-2.lock")
	for _, left := range []string{"", "12345678901234567890 and more", "4194303"} {
		leave(t, path, left)
		c, _, err := lock(path)
		if err != nil {
			t.Fatalf("with %q left: %v", left, err)
		}
		sweepClaims(filepath.Dir(path)) // must not take a held one
		want := fmt.Sprintf("process %d", os.Getpid())
		if _, holder, err := lock(path); !errors.Is(err, unix.EWOULDBLOCK) || holder != want {
			t.Errorf("with %q left the holder is %q, %v", left, holder, err)
		}
		c.release()
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the file is left: %v", err)
		}
	}
	leave(t, path, "")
	sweepClaims(filepath.Dir(path))
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that nobody holds is kept: %v", err)
	}
	os.Remove(filepath.Dir(path))
	c, _, err := lock(path)
	if info, serr := os.Stat(filepath.Dir(path)); err != nil || serr != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory is %v, %v, %v", info, err, serr)
	}
	c.release()
}

// Who sweeps while another claims does not keep it off.
func TestClaimWhileOthersSweep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "uplink-1-2.lock")
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			default:
				sweepClaims(filepath.Dir(path))
				time.Sleep(holderPause / 5) // daemons do not start all the time
			}
		}
	}()
	for n := range 100 {
		c, holder, err := lock(path)
		if err != nil {
			t.Errorf("claim %d: %s, %v", n, holder, err)
			break
		}
		c.release()
	}
	close(stop)
	<-ended
}

// leave writes a lock file as a killed daemon leaves it.
func leave(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func numberedFlows(n int) (ids []flow.ID) {
	for i := range n {
		ids = append(ids, numbered(i+1))
	}
	return ids
}
