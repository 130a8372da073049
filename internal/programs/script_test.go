package programs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// runScript is a program that does with its connection what its standard
// input tells it, a word a line, and answers each with a line.
func runScript(args []string) error {
	if len(args) < 1 {
		return errors.New("usage: script ADDRESS")
	}
	fd, err := acceptOne(args[0])
	if err != nil {
		return err
	}
	fmt.Println("accepted")
	words := bufio.NewScanner(os.Stdin)
	for words.Scan() {
		if words.Text() == "exit" {
			return nil
		}
		fmt.Println(obey(fd, words.Text()))
	}
	return nil
}

// messageSize is what "write" and "read" move, in octets.
const messageSize = 100000

func message(who string) []byte {
	return []byte(strings.Repeat(who+" ", messageSize/(len(who)+1)+1))[:messageSize]
}

// obey carries out one word and says what came of it.
func obey(fd int, word string) string {
	var err error
	switch word {
	case "write":
		_, err = unix.Write(fd, message("program"))
	case "read":
		b := make([]byte, messageSize)
		var n int
		if n, _, err = unix.Recvfrom(fd, b, unix.MSG_WAITALL); err == nil && string(b[:n]) != string(message("peer")) {
			err = fmt.Errorf("%d octets that are not the peer's message", n)
		}
	case "read-end":
		var n int
		if n, err = unix.Read(fd, make([]byte, 1)); err == nil && n != 0 {
			err = errors.New("no end")
		}
	case "shutdown":
		err = unix.Shutdown(fd, unix.SHUT_WR)
	case "linger-0":
		err = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	case "close":
		err = unix.Close(fd)
	default:
		err = errors.New("unknown word")
	}
	return answer(err)
}

// answer names an error as both sides of a test do.
func answer(err error) string {
	switch {
	case err == nil:
		return "ok"
	case errors.Is(err, unix.ECONNRESET):
		return "reset"
	case errors.Is(err, io.EOF):
		return "end"
	}
	return err.Error()
}
