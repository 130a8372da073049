package driver

import "testing"

func TestControls(t *testing.T) {
	pad := func(name string) (p [16]byte) { copy(p[:], name); return p }
	for _, tt := range []struct{ text, from, to string }{
		{"bbr=cubic", "bbr", "cubic"},
		{"bbr=cubic", "reno", "reno"},
		{"bbr=cubic", "vegas", "vegas"},
		{"bbr=cubic,*=reno", "bbr", "cubic"},
		{"bbr=cubic,*=reno", "vegas", "reno"},
		{"*=reno", "", "reno"},
		{"a_name_of_15_oct=cubic", "", "error"},
		{"bbr", "", "error"},
		{"", "", "error"},
		{"=cubic", "", "error"},
		{"bbr=", "", "error"},
		{"bbr=none", "", "error"},
		{"bbr=vegas", "", "error"},
		{"bbr=cubic,", "", "error"},
		{"bbr=cubic,bbr=reno", "", "error"},
	} {
		c, err := ParseControls(tt.text)
		if tt.to == "error" {
			if err == nil {
				t.Errorf("%q was taken", tt.text)
			}
			continue
		}
		if err != nil || c.of(pad(tt.from)) != pad(tt.to) || len(c.String()) != len(tt.text) {
			t.Errorf("%q, %q: %q, %v, %v", tt.text, tt.from, c.of(pad(tt.from)), c, err)
		}
	}
	if none := Controls(nil); none.of(pad("bbr")) != pad("bbr") || none.String() != "" {
		t.Errorf("%q", none)
	}
}
