package policy

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"toehold/internal/abi"
)

var seed = flag.Uint64("seed", 1, "first seed of the random policies")

// names as a driver would find them.
var someNames = Names{
	Interface: func(name string) (uint32, bool) { return map[string]uint32{"eth0": 2, "eth1": 3}[name], name != "ppp0" },
	Cgroup: func(path string) (uint64, bool) {
		return map[string]uint64{"/a": 100, "/a/b": 101}[path], path != "/gone"
	},
}

// known is what the kernel knows at establishment, of facts; the mask says
// what of it.
func known(f *Facts, mask uint32) *abi.PolicyFacts {
	k := &abi.PolicyFacts{Known: mask | 1<<abi.FieldAlways}
	k.Fact[abi.FieldLocalAddr], k.Fact[abi.FieldRemoteAddr] = f.Local.Addr().As16(), f.Remote.Addr().As16()
	k.Fact[abi.FieldLocalPort], k.Fact[abi.FieldRemotePort] = numberAt(uint64(f.Local.Port())), numberAt(uint64(f.Remote.Port()))
	index, _ := someNames.Interface(f.Interface)
	cgroup, _ := someNames.Cgroup(f.Cgroup)
	k.Fact[abi.FieldInterface], k.Fact[abi.FieldCgroup] = numberAt(uint64(index)), numberAt(cgroup)
	k.Fact[abi.FieldUID], k.Fact[abi.FieldMark], k.Fact[abi.FieldNetNS] = numberAt(uint64(f.UID)), numberAt(uint64(f.Mark)), numberAt(uint64(f.NetNS))
	copy(k.Fact[abi.FieldCongestion][:], f.Congestion)
	copy(k.Fact[abi.FieldComm][:], f.Process)
	return k
}

func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

func randomFacts(r *rand.Rand) *Facts {
	end := func() netip.AddrPort {
		return netip.AddrPortFrom(netip.MustParseAddr(pick(r, "10.0.0.1", "10.200.0.1", "192.0.2.1", "255.255.255.255", "0.0.0.0", "fd00::1", "::1", "ffff::")), pick(r, uint16(22), 80, 443, 0, 65535))
	}
	return &Facts{
		Local: end(), Remote: end(), Interface: pick(r, "eth0", "eth1", ""), Process: pick(r, "nginx", "ngin", "sshd", ""),
		UID: pick(r, uint32(0), 1000, 1<<32-1), Cgroup: pick(r, "/a", "/a/b", ""), NetNS: pick(r, uint32(1), 2), Mark: pick(r, uint32(0), 7),
		Congestion: pick(r, "cubic", "bbr"), Rate: pick(r, uint64(0), 5000), Age: pick(r, 0, time.Minute), Place: InKernel,
	}
}

// randomCondition writes an expression, of what the table can judge and,
// when sure is not set, of what it cannot.
func randomCondition(r *rand.Rand, depth int, sure bool) string {
	if depth > 0 && r.IntN(3) > 0 {
		a, b := randomCondition(r, depth-1, sure), randomCondition(r, depth-1, sure)
		return fmt.Sprintf(pick(r, "(%s && %s)", "(%s || %s)", "!(%s || !%s)", "!(%s && %s)"), a, b)
	}
	prefix := func() string {
		return pick(r, "10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "::/0", "::/64", "fd00::/8", "128.0.0.0/1", "::1", "8000::/1")
	}
	atoms := []string{
		fmt.Sprintf("%s.port %s %d", pick(r, "local", "remote"), pick(r, "==", "!=", "<", "<=", ">", ">="), pick(r, 22, 80, 0, -1, 65535, 65000)),
		fmt.Sprintf("%d %s uid", pick(r, 0, 1000, -5), pick(r, "==", "!=", "<", "<=", ">", ">=")),
		fmt.Sprintf("%s.within(%q)", pick(r, "local", "remote"), prefix()),
		fmt.Sprintf("%s.addr %s %q", pick(r, "local", "remote"), pick(r, "==", "!="), pick(r, "10.0.0.1", "fd00::1", "192.0.2.1")),
		fmt.Sprintf(`remote.port in [%s]`, pick(r, "22", "22, 80", "")),
		fmt.Sprintf(`local.addr in [%s]`, pick(r, `"10.0.0.1"`, `"::1", "10.0.0.1"`)),
		fmt.Sprintf("interface %s %q", pick(r, "==", "!="), pick(r, "eth0", "eth1")),
		fmt.Sprintf("cgroup %s %q", pick(r, "==", "!="), pick(r, "/a", "/a/b")),
		fmt.Sprintf("process == %q", pick(r, "nginx", "ngin", "sshd")),
		fmt.Sprintf("process.startsWith(%q)", pick(r, "ngin", "nginx", "", "s")),
		fmt.Sprintf("congestion %s %q", pick(r, "==", "!="), pick(r, "cubic", "reno")),
		"mark == 7", "netns != 1", "true", "false", "uid > 9223372036854775807", "uid < -9223372036854775807",
	}
	if !sure {
		atoms = append(atoms, "rate > 1000", `age < duration("10s")`, "rate / rate == 1", `interface == "ppp0"`, `cgroup == "/gone"`,
			`cgroup.startsWith("/a")`, "local.port == remote.port", "(mark == 7 ? true : rate > 3)", "local == remote", "uid > 3.5")
	}
	return "(" + pick(r, atoms...) + ")"
}

func randomPolicy(r *rand.Rand, sure bool) string {
	var b strings.Builder
	b.WriteString("rules:\n")
	for i := range 1 + r.IntN(4) {
		fmt.Fprintf(&b, "- name: r%d\n  action: %s\n  when: |\n    %s\n", i, pick(r, "never", "offload", "offload", "upload", "leave"), randomCondition(r, r.IntN(4), sure))
	}
	return b.String()
}

// What the table says of a connection is what the conditions say, where it
// says anything; and where the kernel knows all that is asked, it does.
func TestTableAgreesWithConditions(t *testing.T) {
	for n := *seed; n < *seed+400; n++ {
		r := rand.New(rand.NewPCG(n, 0))
		sure := n%2 == 0
		source := randomPolicy(r, sure)
		p, err := Parse("random", []byte(source), Known{})
		if err != nil {
			t.Fatalf("-seed %d: %v\n%s", n, err, source)
		}
		table := p.Table(someNames, n)
		for range 50 {
			f := randomFacts(r)
			mask := ^uint32(0)
			if !sure {
				mask = r.Uint32()
			}
			verdict, rule := Judge(table, known(f, mask))
			if wrong := disagree(p, p.Match(f), verdict, rule); wrong != "" || sure && rule == abi.RuleNone && p.Match(f) >= 0 && table.Count < 100 {
				t.Fatalf("-seed %d: %s: the table says %v by rule %d, conditions say rule %d, of %+v\n%s", n, wrong, verdict, rule, p.Match(f), f, source)
			}
		}
	}
}

// disagree compares a table's verdict with the rule that decides.
func disagree(p *Policy, want int, v abi.Verdict, rule uint16) string {
	switch {
	case rule == abi.RuleNone && v == abi.VerdictLater:
		return ""
	case int(rule) != want:
		return "another rule"
	case v == abi.VerdictNever && p.Rules[want].Action != Never, v == abi.VerdictNow && p.Rules[want].Action != Offload:
		return "another action"
	case v == abi.VerdictLater && p.Rules[want].Action == Never:
		return "later, of a rule that says never"
	}
	return ""
}

// Tables by example, and what becomes of what does not fit.
func TestTables(t *testing.T) {
	web := &Facts{Local: netip.MustParseAddrPort("10.0.0.1:80"), Remote: netip.MustParseAddrPort("10.0.0.2:40000")}
	many := make([]string, 600)
	for i := range many {
		many[i] = fmt.Sprintf("- {name: r%d, when: local.port == %d, action: never}\n", i, 1000+i)
	}
	wide := "- {name: wide, when: 'local.port in [" + strings.Trim(strings.Repeat("1, ", 70), ", ") + "]', action: never}\n"
	for _, tt := range []struct {
		name, rules string
		want        abi.Verdict
		count       uint32
	}{
		{"none", "[]", abi.VerdictLater, 0},
		{"never", "\n- {name: a, when: local.port == 80, action: never}\n", abi.VerdictNever, 1},
		{"now", "\n- {name: a, when: local.port == 80 && remote.port > 1024, action: offload}\n", abi.VerdictNow, 2},
		{"now, in a while", "\n- {name: a, when: local.port == 80, action: offload, for: 1s}\n", abi.VerdictLater, 1},
		{"never, unless a rule before may match", "\n- {name: b, when: rate > 5, action: offload}\n- {name: a, when: local.port == 80, action: never}\n", abi.VerdictLater, 1},
		{"a rule before that cannot match", "\n- {name: b, when: rate > 5 && local.port == 81, action: offload}\n- {name: a, when: local.port == 80, action: never}\n", abi.VerdictNever, 2},
		{"or what only the driver knows", "\n- {name: b, when: local.port == 80 || rate > 5, action: never}\n", abi.VerdictNever, 2},
		{"everything, and what follows is not reached", "\n- {name: b, action: never}\n- {name: a, action: offload}\n", abi.VerdictNever, 1},
		{"too many rules", "\n" + strings.Join(many, "") + "- {name: last, action: never}\n", abi.VerdictLater, abi.MaxPolicyTerms},
		{"too many alternatives", "\n" + wide + "- {name: last, action: never}\n", abi.VerdictLater, 6},
	} {
		p, err := Parse("t", []byte("rules: "+tt.rules), Known{})
		if err != nil {
			t.Fatal(err)
		}
		table := p.Table(Names{}, 7)
		if v, _ := Judge(table, known(web, ^uint32(0))); v != tt.want || table.Count != tt.count || table.Serial != 7 {
			t.Errorf("%s: %v, %d terms, want %v, %d", tt.name, v, table.Count, tt.want, tt.count)
		}
	}
}

// Every fact of the struct can be named, and every name reads one.
func TestFactsAreAllNamed(t *testing.T) {
	if len(AllFacts) != len(factsByName) {
		t.Error("a fact is named twice")
	}
	said := func(f *Facts) (all []string) {
		for _, fact := range AllFacts {
			all = append(all, show(fact.get(f)))
		}
		return all
	}
	empty := said(&Facts{})
	for i := range reflect.TypeFor[Facts]().NumField() {
		var f Facts
		field := reflect.ValueOf(&f).Elem().Field(i)
		switch field.Kind() {
		case reflect.String:
			field.SetString("x")
		case reflect.Struct:
			field.Set(reflect.ValueOf(netip.MustParseAddrPort("10.0.0.1:1")))
		case reflect.Float64:
			field.SetFloat(1)
		case reflect.Int, reflect.Int64:
			field.SetInt(1)
		default:
			field.SetUint(1)
		}
		if slices.Equal(said(&f), empty) {
			t.Errorf("no fact tells of %s", reflect.TypeFor[Facts]().Field(i).Name)
		}
	}
}
