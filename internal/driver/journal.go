package driver

import (
	"slices"
	"sync"
	"time"

	"toehold/internal/flow"
	"toehold/internal/policy"
)

// Limits of a Journal: what is beyond them is forgotten, oldest first.
const (
	keptEvents    = 4096
	keptMoves     = 16 // of one connection
	keptHistories = 1 << 16
	followerQueue = 1024
)

// A Journal keeps what happened: a ring of events, and the history of each
// connection that is still alive. It is safe for concurrent use, and nothing
// that holds it waits.
type Journal struct {
	mu        sync.Mutex
	now       func() time.Time
	ring      []Event
	next      int // where the next event goes, once the ring is full
	followers map[*Follower]struct{}
	histories map[flow.Key]*history
	tallies   tallies
}

// A history belongs to one socket; see sameSocket.
type history struct {
	inode             uint64
	offloads, uploads int
	reason            string
	retransmits       uint64 // segments that devices have sent again
	moves             []Move
}

// NewJournal returns an empty Journal whose events are stamped by now.
func NewJournal(now func() time.Time) *Journal {
	return &Journal{now: now, followers: make(map[*Follower]struct{}), histories: make(map[flow.Key]*history), tallies: newTallies()}
}

// Add notes an event.
func (j *Journal) Add(e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.add(&e)
}

// AddMove notes an event of one connection, in its history too. inode is its
// socket's.
func (j *Journal) AddMove(id flow.ID, inode uint64, e Event) {
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Local, e.Remote = id.Local.String(), id.Remote.String()
	j.add(&e)
	if e.Kind == EventEnded {
		delete(j.histories, id.Key())
		return
	}
	j.remember(id.Key(), inode, &e)
}

func (j *Journal) add(e *Event) {
	e.Time = j.now()
	j.tallies.count(e)
	if len(j.ring) < keptEvents {
		j.ring = append(j.ring, *e)
	} else {
		j.ring[j.next] = *e
		j.next = (j.next + 1) % keptEvents
	}
	for f := range j.followers {
		f.offer(*e)
	}
}

func (j *Journal) remember(k flow.Key, inode uint64, e *Event) {
	h := j.histories[k]
	if h == nil || !sameSocket(h.inode, inode) {
		if h == nil && len(j.histories) >= keptHistories {
			return
		}
		h = &history{inode: inode}
		j.histories[k] = h
	}
	h.inode = max(h.inode, inode)
	switch e.Kind {
	case EventOffloaded:
		h.offloads++
	case EventUploaded:
		h.uploads++
	}
	h.reason = e.Reason
	if len(h.moves) == keptMoves {
		h.moves = slices.Delete(h.moves, 0, 1)
	}
	h.moves = append(h.moves, Move{Time: e.Time, Kind: e.Kind, ID: e.ID, Device: e.Device, Reason: e.Reason, Detail: e.Detail, Elapsed: e.Elapsed})
}

// fill writes what the journal knows of a connection into its view.
func (j *Journal) fill(c *Connection, inode uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.histories[c.Flow().Key()]; h != nil && sameSocket(h.inode, inode) {
		c.Offloads, c.Uploads, c.Reason = h.offloads, h.uploads, h.reason
		c.Retransmits += h.retransmits
	}
}

// carry keeps what a device that had the connection had to send again.
func (j *Journal) carry(id flow.ID, retransmits uint64) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.histories[id.Key()]; h != nil {
		h.retransmits += retransmits
	}
}

// countOffloads writes into facts how often each connection was offloaded.
func (j *Journal) countOffloads(seen []policy.Seen) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for i := range seen {
		if h := j.histories[seen[i].Flow.Key()]; h != nil {
			seen[i].Facts.Offloads = h.offloads
		}
	}
}

// moves returns the history of a connection, oldest first; never nil.
func (j *Journal) moves(id flow.ID, inode uint64) []Move {
	j.mu.Lock()
	defer j.mu.Unlock()
	if h := j.histories[id.Key()]; h != nil && sameSocket(h.inode, inode) {
		return slices.Clone(h.moves)
	}
	return []Move{}
}

// prune forgets the histories of connections that alive denies.
func (j *Journal) prune(alive func(k flow.Key, inode uint64) bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	for k, h := range j.histories {
		if !alive(k, h.inode) {
			delete(j.histories, k)
		}
	}
}

// remembered counts the histories.
func (j *Journal) remembered() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return len(j.histories)
}

// Events returns the events kept, oldest first.
func (j *Journal) Events() []Event {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.events()
}

func (j *Journal) events() []Event {
	return append(slices.Clone(j.ring[j.next:]), j.ring[:j.next]...)
}

// A Follower is given the events from one moment on. When it does not take
// them fast enough it is dropped, with a last event that says so.
type Follower struct {
	C       chan Event // closed when the follower was dropped
	journal *Journal
}

// Follow returns the events kept and a Follower of those to come.
func (j *Journal) Follow() ([]Event, *Follower) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f := &Follower{C: make(chan Event, followerQueue), journal: j}
	j.followers[f] = struct{}{}
	return j.events(), f
}

// offer never waits. The last place in the queue is for the note.
func (f *Follower) offer(e Event) {
	if len(f.C) < cap(f.C)-1 {
		f.C <- e
		return
	}
	f.C <- Event{Time: e.Time, Kind: EventDropped, Detail: "follower too slow: events are missing from here on"}
	f.leave()
}

func (f *Follower) leave() {
	if _, ok := f.journal.followers[f]; ok {
		delete(f.journal.followers, f)
		close(f.C)
	}
}

// Close ends the following.
func (f *Follower) Close() {
	f.journal.mu.Lock()
	defer f.journal.mu.Unlock()
	f.leave()
}
