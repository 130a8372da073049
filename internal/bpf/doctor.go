package bpf

// A Check is the verdict on one feature that the project needs.
type Check struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"`
	Since  string `json:"since,omitempty"` // first kernel that has it
	Fix    string `json:"fix,omitempty"`   // what to do when it is not OK
}

// Doctor checks everything.
func Doctor() []Check { return nil }
