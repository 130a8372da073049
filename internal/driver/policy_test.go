package driver_test

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"toehold/internal/abi"
	"toehold/internal/cli"
	"toehold/internal/driver"
)

// write puts a policy into a file.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// placeOf is where the pair's connection is.
func (r *rig) placeOf(p *pair) string {
	r.t.Helper()
	c := r.list(p.selector())
	if len(c) != 1 {
		r.t.Fatalf("listed: %+v", c)
	}
	return c[0].Place
}

// told lists what the events of one kind say of a pair: reason and detail.
func (r *rig) told(p *pair, kind string) (all []string) {
	r.t.Helper()
	err := r.client.Events(ctx, false, func(e driver.Event) error {
		if e.Kind == kind && e.Local+" "+e.Remote == p.flow() {
			all = append(all, e.Reason+": "+e.Detail)
		}
		return nil
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return all
}

const bulkPolicy = `limits: {min_stay: 0s}
rules:
- name: bulk
  when: bytes_received > 1000000 && remote.within("10.0.0.0/8")
  action: offload
`

// Bulk is offloaded by the policy that the daemon was started with, and
// brought home by another one; what is not bulk stays where it is.
func TestPolicyMoves(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, bulkPolicy)
	r := newRig(t, "--policy", file)
	pairs := r.connect(2, false)
	bulk, other := pairs[0], pairs[1]
	other.exchange(t, "little")
	go bulk.peer.Write(make([]byte, 2<<20))
	if _, err := io.CopyN(io.Discard, bulk.host, 2<<20); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bulk is offloaded", func() bool { return r.placeOf(bulk) == driver.OnDevice })
	if place := r.placeOf(other); place != driver.InKernel {
		t.Errorf("what is not bulk is in the place %s", place)
	}
	if told := r.told(bulk, driver.EventOffloaded); !slices.Equal(told, []string{"policy: rule bulk"}) {
		t.Errorf("events of the offload: %q", told)
	}
	bulk.exchange(t, "on the device")
	if _, err := r.client.ApplyPolicy(ctx, "home", []byte("limits: {min_stay: 0s}\nrules: []\ndefault: upload\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bulk is home", func() bool { return r.placeOf(bulk) == driver.InKernel })
	if told := r.told(bulk, driver.EventUploaded); !slices.Equal(told, []string{"policy: rule default"}) {
		t.Errorf("events of the upload: %q", told)
	}
	bulk.exchange(t, "at home")
	other.exchange(t, "at home")
}

// SIGHUP reads the file again. With anything wrong in it the policy stays.
func TestPolicyReload(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, "rules: []\n")
	r := newRig(t, "--policy", file)
	p := r.connect(1, false)[0]
	write(t, file, "rules:\n- name: a\n  action: fly\n")
	r.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the daemon complains", func() bool { return strings.Contains(r.errs.String(), file+":3:11: ") })
	if v, err := r.client.Policy(ctx); err != nil || len(v.Rules) != 1 {
		t.Errorf("in force is %+v, %v", v, err)
	}
	rejected := func() (all []string) {
		err := r.client.Events(ctx, false, func(e driver.Event) error {
			if e.Kind == driver.EventPolicyRejected {
				all = append(all, e.Detail)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	if all := rejected(); len(all) != 1 || !strings.HasPrefix(all[0], file+":3:11: ") {
		t.Errorf("the events say %q", all)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	r.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "the events say that the file is gone", func() bool {
		all := rejected()
		return len(all) == 2 && strings.Contains(all[1], file)
	})
	write(t, file, "rules:\n- name: all\n  action: offload\n")
	r.cmd.Process.Signal(syscall.SIGHUP)
	eventually(t, "it is offloaded", func() bool { return r.placeOf(p) == driver.OnDevice })
	p.exchange(t, "on the device")
	// An operator's upload outlasts the policy's wish.
	r.moved(r.upload(p.selector()), 1)
	// The policy may be told a moment later how its own move has ended.
	eventually(t, "an operator's upload is the reason", func() bool {
		e, err := r.client.ExplainPolicy(ctx, p.selector())
		return err == nil && e.Rule == "all" && e.Would == "offload" && strings.HasPrefix(e.Outlook, "an operator")
	})
}

// A rule that says never keeps a connection off the device also when its
// program asks for it.
func TestPolicyForbidsPrograms(t *testing.T) {
	r := newRig(t)
	pairs := r.connect(2, false)
	port := addrOf(pairs[0].host.RemoteAddr()).Port()
	source := fmt.Sprintf("rules:\n- {name: no, when: remote.port == %d, action: never}\n", port)
	if _, err := r.client.ApplyPolicy(ctx, "p", []byte(source)); err != nil {
		t.Fatal(err)
	}
	for _, p := range pairs {
		if err := wish(t, p.host, abi.WishNow); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the other one is on the device", func() bool { return r.placeOf(pairs[1]) == driver.OnDevice })
	eventually(t, "the program is told", func() bool {
		_, reason := whereabouts(t, pairs[0].host)
		return reason == abi.Policy.String()
	})
	if place := r.placeOf(pairs[0]); place != driver.InKernel {
		t.Errorf("it is in the place %s", place)
	}
}

// What was refused since the device was paused moves when it goes on, however
// long the policy would have waited.
func TestPolicyAfterPause(t *testing.T) {
	r := newRig(t)
	if _, err := r.client.PauseDevices(ctx, "", true); err != nil {
		t.Fatal(err)
	}
	p := r.connect(1, false)[0]
	if _, err := r.client.ApplyPolicy(ctx, "p", []byte("limits: {retry_after: 1h}\nrules: [{name: all, action: offload}]\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is refused", func() bool { return len(r.told(p, driver.EventRefused)) > 0 })
	if _, err := r.client.PauseDevices(ctx, "", false); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is on the device", func() bool { return r.placeOf(p) == driver.OnDevice })
}

// The commands about policies, end to end.
func TestPolicyCommands(t *testing.T) {
	r := newRig(t)
	p := r.connect(1, false)[0]
	dir := t.TempDir()
	good, bad := filepath.Join(dir, "good.yaml"), filepath.Join(dir, "bad.yaml")
	write(t, good, bulkPolicy)
	write(t, bad, "rules:\n- {name: a, action: offload, device: nonesuch}\n")
	remote := addrOf(p.host.RemoteAddr()).String()
	for _, tt := range []struct {
		args, want string
		code       int
	}{
		{"policy show --json", "", cli.ExitFailed},
		{"policy check --json " + good, `"connections": 1`, cli.ExitDone},
		{"policy check --json " + bad, "", cli.ExitFailed},
		{"policy check --json default", `"long-lived-bulk"`, cli.ExitDone},
		{"policy apply --json " + bad, "", cli.ExitFailed},
		{"policy apply --json " + good, `"bulk"`, cli.ExitDone},
		{"policy show --json", `"bytes_received`, cli.ExitDone},
		{"policy explain --json --remote " + remote, `"remote.within(\"10.0.0.0/8\")"`, cli.ExitDone},
		{"policy explain --json --pid 1", "", cli.ExitFailed},
	} {
		out, code := r.toehold(strings.Fields(tt.args)...)
		text := strings.ReplaceAll(string(out), "\n", "")
		if code != tt.code || len(out) > 0 && !json.Valid(out) || !strings.Contains(text, tt.want) {
			t.Errorf("%s: exit %d, want %d with %s\n%s", tt.args, code, tt.code, tt.want, out)
		}
	}
	if place := r.placeOf(p); place != driver.InKernel {
		t.Errorf("it is in the place %s", place)
	}
}

// A daemon does not start with a policy that is wrong.
func TestPolicyOfDaemon(t *testing.T) {
	file := filepath.Join(t.TempDir(), "policy.yaml")
	write(t, file, "rules:\n- {name: a, action: fly}\n")
	r := newRig(t)
	r.stop()
	if err := r.launch(r.socket, "--policy", file); err == nil || !strings.Contains(r.errs.String(), file+":2:21: ") {
		t.Errorf("%v: %s", err, r.errs)
	}
	r.cmd = nil
}
