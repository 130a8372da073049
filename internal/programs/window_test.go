package programs

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"toehold/internal/driver"
	"toehold/internal/rig"
)

// fill writes until nothing has moved for a while: the echoing program can
// send no more, so it reads no more, and both windows are closed.
func fill(t *testing.T, c net.Conn, from io.Reader, into io.Writer) {
	t.Helper()
	b := make([]byte, 64<<10)
	for {
		from.Read(b)
		c.SetWriteDeadline(time.Now().Add(400 * time.Millisecond))
		n, err := c.Write(b)
		into.Write(b[:n])
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// moves are made one after the other.
type moves []func(t *testing.T, r *rig.Rig)

func (all moves) play(t *testing.T, r *rig.Rig) {
	t.Helper()
	for _, move := range all {
		move(t, r)
	}
}

// Both windows are closed while the connection moves, and while the device
// dies; whoever has it then probes, and all arrives when they open.
func TestClosedWindows(t *testing.T) {
	offload := func(t *testing.T, r *rig.Rig) { offloadAll(t, r, driver.Shadow, 1) }
	upload := func(t *testing.T, r *rig.Rig) {
		if u, err := r.Upload(t.Context(), rig.All); err != nil || len(u.Moved) != 1 {
			t.Errorf("upload: %+v, %v", u, err)
		}
	}
	kill := func(t *testing.T, r *rig.Rig) {
		if _, err := r.KillDevice(t.Context()); err != nil {
			t.Error(err)
		}
	}
	tests := map[string]struct{ before, after moves }{
		"kernel":                       {},
		"closed in the kernel":         {after: moves{offload}},
		"closed on the device":         {before: moves{offload}},
		"closed on the device, upload": {before: moves{offload}, after: moves{upload}},
		"closed on the device, death":  {before: moves{offload}, after: moves{kill}},
		"there and back":               {after: moves{offload, upload, offload, upload}},
		"death of the device":          {after: moves{offload, kill}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			at := echoProgram(t, r)["IPv4"]
			c, err := r.Net.Peer.Dial("tcp", at.String())
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			var sent bytes.Buffer
			tt.before.play(t, r)
			fill(t, c, rig.NewStream(7), &sent)
			tt.after.play(t, r)
			time.Sleep(time.Second) // some probes
			c.SetDeadline(time.Now().Add(exchangeTimeout))
			got := make([]byte, sent.Len())
			if _, err := io.ReadFull(c, got); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, sent.Bytes()) {
				t.Errorf("of %d octets others came back than were sent", len(got))
			}
		})
	}
}
