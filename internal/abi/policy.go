package abi

// A policy, as far as it can be judged when a connection is established, is a
// list of alternatives: terms that must all hold, and the verdict if they do.
// The first alternative that holds decides. One that does not hold for
// certain, but might, since a fact in it is not known, leaves the decision to
// the driver; so does a list that comes to its end.
//
//	var failed, unsure bool
//	for _, t := range terms {
//		switch {
//		case facts.Known&(1<<t.Field) == 0: unsure = true
//		case (t.Low <= fact && fact <= t.High) == (t.Flags&TermNot != 0): failed = true
//		}
//		if t.Verdict == 0 { continue } // more terms of this alternative follow
//		if !failed && unsure { return VerdictLater, RuleNone }
//		if !failed { return t.Verdict, t.Rule }
//		failed, unsure = false, false
//	}
//	return VerdictLater, RuleNone
//
// Facts, Low and High are compared octet by octet, the first one most
// significant, so one comparison serves numbers, prefixes, names and their
// beginnings.

// A PolicyField is what a term of a policy looks at: an index of
// PolicyFacts.Fact, and the bit of PolicyFacts.Known.
type PolicyField uint8

// The fields. Addresses are of 16 octets, IPv4 as IPv4-mapped IPv6; numbers
// fill the field from its end in network order; names fill it from its
// beginning, with zeros after them.
const (
	FieldAlways PolicyField = iota // always known, always zero
	FieldLocalAddr
	FieldRemoteAddr
	FieldLocalPort
	FieldRemotePort
	FieldInterface  // index of the interface that the route leaves by
	FieldUID        // of the socket
	FieldMark       // SO_MARK
	FieldCgroup     // id of the socket's cgroup (v2)
	FieldNetNS      // inode of the network namespace
	FieldCongestion // name of the congestion control
	FieldComm       // name of the process
	PolicyFields    // how many there are
)

// A Verdict is what a policy says of a connection when it is established. 0
// stands for none.
type Verdict uint8

// The verdicts.
const (
	VerdictNever Verdict = 1 + iota // this connection stays where it is; the driver need not look
	VerdictLater                    // the driver decides
	VerdictNow                      // the driver decides, and is to be woken
)

// TermNot asks that the fact lies outside Low to High.
const TermNot = 1

// String is never, later or now.
func (v Verdict) String() string {
	names := [...]string{"none", "never", "later", "now"}
	if int(v) >= len(names) {
		return "unknown"
	}
	return names[v]
}

// RuleNone is the rule of a verdict that no rule has given.
const RuleNone = 0xffff

// A PolicyTerm is one comparison.
type PolicyTerm struct {
	Low, High [16]byte // both inclusive
	Field     PolicyField
	Flags     uint8   // Term...
	Verdict   Verdict // of the alternative that this term ends; 0: it goes on
	_         uint8
	Rule      uint16 // index in the policy, of the rule that the alternative comes from
	_         [2]byte
}

// MaxPolicyTerms bounds a table, and so the time that a BPF program spends on
// one connection. What a policy has beyond it is left to the driver.
const MaxPolicyTerms = 512

// A PolicyTable is a policy for the kernel: element 0 of a BPF array. An empty
// one leaves every decision to the driver.
type PolicyTable struct {
	Serial uint64 // of the policy that it was made from, 0: none
	Count  uint32 // terms in use; what lies beyond is ignored
	_      [4]byte
	Terms  [MaxPolicyTerms]PolicyTerm
}

// PolicyFacts is what the kernel knows of a connection when it is
// established.
type PolicyFacts struct {
	Fact  [PolicyFields][16]byte
	Known uint32 // bit 1<<field; FieldAlways is always set
	_     [4]byte
}
