package programs

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An actor is a program that does with its connection what its standard input
// tells it, a word a line, and answers each with a line.
type actor struct {
	fd          int
	nonblocking bool
	heir        *exec.Cmd // goes on with the connection and the words
	heirSocket  int       // by which it is given descriptors
}

// runScript is its main function. The address may be that there is none: an heir
// inherits its connection, or is sent it.
func runScript(args []string) (err error) {
	if len(args) < 1 {
		return errors.New("usage: script ADDRESS [nonblocking]")
	}
	a := &actor{nonblocking: slices.Contains(args, nonblocking)}
	switch args[0] {
	case inherited:
		a.fd = inheritedFD
	case sent:
		if a.fd, err = receiveDescriptor(inheritedFD); err != nil {
			return err
		}
	default:
		if a.fd, err = acceptOne(args[0]); err != nil {
			return err
		}
		if err := unix.SetNonblock(a.fd, a.nonblocking); err != nil {
			return err
		}
		fmt.Println("accepted")
		return a.run()
	}
	fmt.Println("ok")
	return a.run()
}

// run obeys until the end of its words, or until somebody else obeys.
func (a *actor) run() error {
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		if words.Text() == "exit" {
			return nil
		}
		err := a.obey(words.Text())
		if a.heir != nil && a.fd < 0 {
			return a.heir.Wait()
		}
		fmt.Println(answer(err))
	}
	return nil
}

// obey carries out one word.
func (a *actor) obey(word string) (err error) {
	switch word {
	case "write":
		return a.write(message("program"))
	case "write-little":
		return a.write([]byte("a"))
	case "read":
		return a.read()
	case "read-end":
		n, err := a.wait(unix.POLLIN, func() (int, error) { return unix.Read(a.fd, make([]byte, 1)) })
		if err == nil && n != 0 {
			err = errors.New("no end")
		}
		return err
	case "shutdown":
		return unix.Shutdown(a.fd, unix.SHUT_WR)
	case "shutdown-read":
		return unix.Shutdown(a.fd, unix.SHUT_RD)
	case "shutdown-both":
		return unix.Shutdown(a.fd, unix.SHUT_RDWR)
	case "linger-0":
		return unix.SetsockoptLinger(a.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	case "error":
		return a.pending()
	case "await-unread":
		return awaitUnread(a.fd)
	case "urgent":
		return unix.Sendto(a.fd, []byte("!"), unix.MSG_OOB, nil)
	case "read-urgent":
		return readUrgent(a.fd)
	case "close":
		return unix.Close(a.fd)
	}
	if events, err := strconv.ParseInt(word, 0, 16); err == nil {
		return a.await(int16(events))
	}
	return a.passOn(word)
}

// wait repeats a call on a socket that does not block until it need not wait.
func (a *actor) wait(events int16, f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if err != unix.EAGAIN {
			return n, err
		}
		if err := a.await(events); err != nil {
			return 0, err
		}
	}
}

// await polls.
func (a *actor) await(events int16) error {
	n, err := retry(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(a.fd), Events: events}}, edgeTimeout)
	})
	if err == nil && n == 0 {
		err = fmt.Errorf("poll for %#x waits for ever", events)
	}
	return err
}

func (a *actor) write(b []byte) error {
	for len(b) > 0 {
		n, err := a.wait(unix.POLLOUT, func() (int, error) { return unix.Write(a.fd, b) })
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func (a *actor) read() error {
	b := make([]byte, messageSize)
	at := 0
	for at < len(b) {
		n, err := a.wait(unix.POLLIN, func() (int, error) {
			n, _, err := unix.Recvfrom(a.fd, b[at:], unix.MSG_WAITALL)
			return n, err
		})
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		at += n
	}
	return compare(b[:at], "peer", nil)
}

// pending is what SO_ERROR says.
func (a *actor) pending() error {
	if err := a.await(unix.POLLERR); err != nil {
		return err
	}
	n, err := unix.GetsockoptInt(a.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && n != 0 {
		err = unix.Errno(n)
	}
	return err
}

// awaitUnread returns when a whole message is there to be read.
func awaitUnread(fd int) error {
	for begin := time.Now(); ; time.Sleep(time.Millisecond) {
		n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
		if err != nil || n == messageSize {
			return err
		}
		if time.Since(begin) > edgeTimeout*time.Millisecond {
			return fmt.Errorf("only %d octets are there", n)
		}
	}
}

// readUrgent waits for the urgent octet and reads it.
func readUrgent(fd int) error {
	n, err := retry(func() (int, error) {
		return unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLPRI}}, edgeTimeout)
	})
	if err == nil && n == 0 {
		err = errors.New("nothing urgent comes")
	}
	if err != nil {
		return err
	}
	b := make([]byte, 2)
	if n, _, err = unix.Recvfrom(fd, b, unix.MSG_OOB); err == nil && string(b[:n]) != "!" {
		err = fmt.Errorf("%q is urgent", b[:n])
	}
	return err
}

// sent is an heir's address: its connection is sent to it.
const sent = "sent"

// passOn has another descriptor, program or process go on with the connection.
func (a *actor) passOn(word string) error {
	switch word {
	case "dup":
		other, err := unix.Dup(a.fd)
		if err == nil {
			err = unix.Close(a.fd)
			a.fd = other
		}
		return err
	case "exec":
		if err := unix.Dup3(a.fd, inheritedFD, 0); err != nil && a.fd != inheritedFD {
			return err
		}
		if _, err := unix.FcntlInt(inheritedFD, unix.F_SETFD, 0); err != nil {
			return err
		}
		return syscall.Exec("/proc/self/exe", a.heirArgs(inherited), os.Environ())
	case "fork", "fork-and-keep":
		f := os.NewFile(uintptr(a.fd), "connection")
		if word == "fork-and-keep" {
			if _, err := unix.Dup(a.fd); err != nil {
				return err
			}
		}
		return a.bequeath(inherited, f)
	case "send": // to a process that does not receive it yet
		return a.send()
	case "receive":
		return a.receive()
	}
	return errors.New("unknown word")
}

func (a *actor) heirArgs(how string) []string {
	args := []string{"/proc/self/exe", programName, "script", how}
	if a.nonblocking {
		args = append(args, nonblocking)
	}
	return args
}

// bequeath starts an heir that has a file.
func (a *actor) bequeath(how string, f *os.File) error {
	defer f.Close()
	args := a.heirArgs(how)
	a.heir, a.fd = exec.Command(args[0], args[1:]...), -1
	a.heir.Stdin, a.heir.Stdout, a.heir.Stderr, a.heir.ExtraFiles = os.Stdin, os.Stdout, os.Stderr, []*os.File{f}
	return a.heir.Start()
}

// send puts the connection's descriptor into a unix socket, and has no other.
func (a *actor) send() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(a.fd), nil, 0); err != nil {
		return err
	}
	a.heirSocket = pair[1]
	return unix.Close(a.fd)
}

// receive starts the process that receives it.
func (a *actor) receive() error {
	return a.bequeath(sent, os.NewFile(uintptr(a.heirSocket), "heir"))
}

func receiveDescriptor(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, 0)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return -1, fmt.Errorf("%d descriptors: %w", len(fds), err)
	}
	return fds[0], nil
}
