package driver_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"toehold/internal/abi"
	"toehold/internal/driver"
	"toehold/internal/mono"
	"toehold/internal/shm"
	"toehold/internal/testnet"
)

// fakeEnv makes the device processes of a daemon fakes of the kind that it
// names.
const fakeEnv = "TOEHOLD_TEST_DEVICE"

// A liar is a device process that greets, has a heartbeat, forwards nothing,
// and answers as its kind does.
type liar struct {
	kind       string
	generation uint32
}

// fakeDevice is the process's main function.
func fakeDevice(kind string) int {
	switch kind {
	case "ends":
		return 3
	case "mute":
		time.Sleep(time.Minute)
		return 0
	}
	if crime, ok := strings.CutPrefix(kind, "traitor:"); ok {
		return traitor(crime)
	}
	if seed, ok := strings.CutPrefix(kind, "wild:"); ok {
		return wildDevice(seed)
	}
	pulse, err := shm.MapPulse(driver.DevicePulse)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	go func() {
		for ; ; time.Sleep(5 * time.Millisecond) {
			atomic.StoreUint64(&pulse.Heartbeat, uint64(mono.Now()))
		}
	}()
	l := &liar{kind: kind}
	version := uint32(abi.Version)
	if kind == "stranger" {
		version++
	}
	l.say(abi.Append(nil, abi.Hello, 0, []abi.Greeting{{Version: version, Capacity: 16, PID: uint32(os.Getpid())}}))
	if kind == "babbler" {
		time.Sleep(50 * time.Millisecond)
		l.say([]byte("once upon a time"))
	}
	return l.listen()
}

func (l *liar) say(msg []byte) { unix.Write(driver.DeviceSocket, msg) }

func (l *liar) listen() int { return listen(l.admit, l.obey) }

// listen has the driver's messages answered until it says Quit, or is gone.
func listen(admit func(abi.Header), obey func(abi.Header, []abi.Command)) int {
	buf := make([]byte, abi.MaxMessage)
	for {
		n, err := unix.Read(driver.DeviceSocket, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return 0
		}
		h, octets, err := abi.ParseHeader(buf[:n])
		if err != nil || h.Type == abi.Quit {
			return 0
		}
		if h.Type == abi.Admit {
			admit(h)
			continue
		}
		commands, _ := abi.Parse([]abi.Command(nil), h, octets)
		obey(h, commands)
	}
}

// admit answers offers, each kind in its way.
func (l *liar) admit(h abi.Header) {
	answers := make([]abi.Answer, h.Count)
	for i := range answers {
		l.generation++
		answers[i].HWID = abi.MakeHWID(l.generation%16, l.generation)
	}
	switch l.kind {
	case "deaf":
		return
	case "miscounter":
		answers = answers[1:]
	case "forger":
		for i := range answers {
			answers[i].HWID = abi.MakeHWID(1, 1)
		}
	case "outsider":
		answers[0].HWID = abi.MakeHWID(1<<30, 1)
	case "refuser":
		for i := range answers {
			answers[i] = abi.Answer{Reason: abi.DeviceMemory}
		}
	}
	l.say(abi.Append(nil, abi.Admitted, h.Batch, answers))
}

func (l *liar) obey(h abi.Header, commands []abi.Command) {
	answers := make([]abi.Answer, len(commands))
	for i := range answers {
		answers[i].HWID = commands[i].HWID
	}
	switch {
	case h.Type == abi.Own && l.kind == "waverer":
		for i := range answers {
			answers[i].Reason = abi.DeviceMemory
		}
	case h.Type == abi.Own && l.kind == "dawdler",
		h.Type == abi.Pass && l.kind == "keeper",
		h.Type == abi.Release && l.kind == "clinger":
		return
	case h.Type == abi.Own && l.kind == "suicide":
		os.Exit(7)
	}
	l.say(abi.Append(nil, h.Type+1, h.Batch, answers))
	if h.Type == abi.Own && l.kind == "quitter" {
		for i := range answers {
			answers[i].Reason = abi.OutOfStep
		}
		l.say(abi.Append(nil, abi.Notice, 0, answers))
	}
}

// fakeRig is a rig whose devices are fakes.
func fakeRig(t *testing.T, kind string) *rig {
	t.Helper()
	r := &rig{Net: testnet.New(t), t: t, env: []string{fakeEnv + "=" + kind}}
	r.start()
	return r
}

// A device that does not come up keeps the daemon from starting, with a
// reason.
func TestDeviceDoesNotCome(t *testing.T) {
	for _, tt := range []struct{ kind, want string }{
		{"ends", "exit status 3"},
		{"stranger", fmt.Sprintf("its version of the interface is %d, ours is %d", abi.Version+1, abi.Version)},
		{"mute", "it did not greet within 5s"},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			r := &rig{Net: testnet.New(t), t: t, env: []string{fakeEnv + "=" + tt.kind}}
			if err := r.launch(filepath.Join(t.TempDir(), "s")); err == nil {
				r.stop()
				t.Fatal("it started")
			}
			if said := r.errs.String(); !strings.Contains(said, "toehold: device of uplink "+r.HostIf) || !strings.Contains(said, tt.want) {
				t.Errorf("it said %q", said)
			}
			r.clean()
		})
	}
}

// Whatever the device does with an offload, it ends with the reason, with the
// connection in the kernel and whole, and with the daemon alive.
func TestDeviceMisbehaves(t *testing.T) {
	for _, tt := range []struct {
		kind, reason string
		lost         bool // the device is replaced for it
	}{
		{"deaf", "device-died", true},
		{"miscounter", "device-down", true},
		{"forger", "device-down", true},
		{"outsider", "device-down", true},
		{"refuser", "device-memory", false},
		{"waverer", "device-memory", false},
		{"dawdler", "timeout", false},
		{"suicide", "device-died", true},
	} {
		t.Run(tt.kind, func(t *testing.T) {
			r := fakeRig(t, tt.kind)
			pairs := r.connect(2, false)
			old := r.device().PID
			res, err := r.client.Offload(ctx, everything, driver.Options{Timeout: 300 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			if len(res.Refused) == 0 || !strings.Contains(reasons(res), tt.reason) {
				t.Errorf("refused %+v, moved %+v", res.Refused, res.Moved)
			}
			if tt.lost {
				r.running(old)
			} else if d := r.device(); d.PID != old || d.State != "running" {
				t.Errorf("the device is %+v", d)
			}
			r.upload(everything)
			for _, p := range pairs {
				p.exchange(t, "nothing happened")
			}
			if d := r.device(); d.Connections != 0 {
				t.Errorf("the device is %+v", d)
			}
		})
	}
}

// A device that does not let go is not waited for: the connection comes home
// without it.
func TestDeviceKeeps(t *testing.T) {
	for _, kind := range []string{"keeper", "clinger"} {
		t.Run(kind, func(t *testing.T) {
			r := fakeRig(t, kind)
			p := r.connect(1, true)[0]
			r.moved(r.offload(p.selector()), 1)
			start := time.Now()
			r.moved(r.upload(p.selector()), 1)
			if took := time.Since(start); took > 8*time.Second {
				t.Errorf("it took %v", took)
			}
			p.exchange(t, "home")
			eventually(t, "the device is rid of it", func() bool { return r.device().Connections == 0 })
		})
	}
}

// What the device gives back by itself is the kernel's, with its reason.
func TestDeviceQuits(t *testing.T) {
	r := fakeRig(t, "quitter")
	p := r.connect(1, false)[0]
	r.moved(r.offload(p.selector()), 1)
	r.kernelAgain(1, "out-of-step")
	p.exchange(t, "home")
}

// A device that talks nonsense is replaced, again and again, less and less
// often.
func TestDeviceBabbles(t *testing.T) {
	r := fakeRig(t, "babbler")
	eventually(t, "the device has been replaced twice", func() bool { return r.device().Restarts >= 2 })
	if said := r.errs.String(); !strings.Contains(said, "device lost") {
		t.Errorf("it said %s", said)
	}
	p := r.connect(1, false)[0]
	p.exchange(t, "as ever")
}
