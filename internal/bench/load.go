package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/rig"
	"toehold/internal/testnet"
)

// An exchange is a request and how many octets answer it.
type exchange struct {
	request []byte
	answer  int
}

// A load is requests over some connections, one at a time over each.
type load struct {
	exchange
	epoll   int
	callers map[int]*asked
	free    []*asked // without a request under way, in the order that they became so
	events  []unix.EpollEvent
	room    []byte
	tally
}

// asked is one connection.
type asked struct {
	fd    int
	owed  int           // octets of the answer that are still to come
	since time.Duration // when the request was due
}

// A tally is what a run of a load gave.
type tally struct {
	answers int
	took    time.Duration // the whole run
	each    []int64       // ns from when a request was due until its answer
}

func (t *tally) perSecond() float64 { return float64(t.answers) / t.took.Seconds() }

// newLoad connects n times to an address.
func newLoad(ns *testnet.Namespace, address string, n int, x exchange) (l *load, err error) {
	l = &load{exchange: x, callers: map[int]*asked{}, events: make([]unix.EpollEvent, n), room: make([]byte, 64<<10)}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, err
	}
	for range n {
		if err := l.connect(ns, address); err != nil {
			l.close()
			return nil, err
		}
	}
	return l, nil
}

func (l *load) connect(ns *testnet.Namespace, address string) error {
	c, err := ns.Dial("tcp", address)
	if err != nil {
		return err
	}
	c.(*net.TCPConn).SetKeepAlive(false)
	fd, err := blocking(c)
	if err != nil {
		return err
	}
	a := &asked{fd: fd}
	l.callers[fd] = a
	l.free = append(l.free, a)
	return errors.Join(unix.SetNonblock(fd, true),
		unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}))
}

func (l *load) close() {
	for fd := range l.callers {
		unix.Close(fd)
	}
	unix.Close(l.epoll)
}

// run makes requests for a while, so many a second, and waits for the last
// answers. A rate of 0 is as many as are answered. A request that finds no
// connection free is late, and made as soon as there is one.
func (l *load) run(ctx context.Context, rate float64, window time.Duration) (tally, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0) // ns; else 50 µs
	l.tally = tally{}
	begin := time.Now()
	for sent := 0; ; {
		now := time.Since(begin)
		if now >= window && len(l.free) == len(l.callers) {
			l.took = now
			return l.tally, nil
		}
		for ; now < window && len(l.free) > 0 && due(rate, sent, now) <= now; sent++ {
			if err := l.ask(due(rate, sent, now)); err != nil {
				return l.tally, err
			}
		}
		if err := l.hear(begin, l.patience(rate, sent, now, window)); err != nil {
			return l.tally, err
		}
		if ctx.Err() != nil || now > window+answerTimeout {
			return l.tally, fmt.Errorf("%d requests of %d without an answer: %w", len(l.callers)-len(l.free), sent, errors.Join(ctx.Err(), unix.ETIMEDOUT))
		}
	}
}

// due is when the request of a number is to be made.
func due(rate float64, number int, now time.Duration) time.Duration {
	if rate <= 0 {
		return now
	}
	return time.Duration(float64(number) / rate * float64(time.Second))
}

// patience is how long to wait for answers before something else is to do.
func (l *load) patience(rate float64, sent int, now, window time.Duration) time.Duration {
	const most = 100 * time.Millisecond // in which a context may end
	if now >= window {
		return most
	}
	if len(l.free) > 0 {
		return min(most, window-now, due(rate, sent, now)-now)
	}
	return min(most, window-now)
}

func (l *load) ask(at time.Duration) error {
	a := l.free[0]
	l.free = l.free[:copy(l.free, l.free[1:])]
	a.owed, a.since = l.answer, at
	for b := l.request; len(b) > 0; {
		n, err := rawIO(unix.SYS_WRITE, a.fd, b)
		switch err {
		case nil:
			b = b[n:]
		case unix.EAGAIN:
			unix.Poll([]unix.PollFd{{Fd: int32(a.fd), Events: unix.POLLOUT}}, 100)
		case unix.EINTR:
		default:
			return fmt.Errorf("request: %w", err)
		}
	}
	return nil
}

// hear takes the answers that have come.
func (l *load) hear(begin time.Time, patience time.Duration) error {
	n, err := epollWait(l.epoll, l.events, &patience)
	if err != nil && err != unix.EINTR {
		return err
	}
	for _, ev := range l.events[:max(n, 0)] {
		a := l.callers[int(ev.Fd)]
		n, err := rawIO(unix.SYS_READ, a.fd, l.room)
		switch {
		case err == unix.EAGAIN || err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("answer: %w", err)
		case n == 0:
			return errors.New("the program ended a connection")
		case n > a.owed:
			return fmt.Errorf("%d octets more than an answer has", n-a.owed)
		}
		if a.owed -= n; a.owed == 0 {
			l.answers++
			l.each = append(l.each, int64(time.Since(begin)-a.since))
			l.free = append(l.free, a)
		}
	}
	return nil
}

// quantiles are of the time that answers took, in microseconds.
func (t *tally) quantile(q float64) float64 { return float64(rig.Quantile(t.each, q)) / 1e3 }
