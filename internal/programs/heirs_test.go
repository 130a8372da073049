package programs

import "testing"

// talks are a message each way.
const talks = "program write; peer read; peer write; program read"

// heirs are scripts in which the connection gets another owner.
var heirs = map[string]string{
	"another descriptor": `
		program dup;` + talks + `; upload;` + talks + `; program close; peer read-end`,
	"another program": `
		program exec;` + talks + `; upload;` + talks + `; program exit; peer read-end`,
	"another program finds data": `
		peer write; program await-unread; program exec; program read; upload;` + talks + `; program exit; peer read-end`,
	"a child": `
		program fork;` + talks + `; upload;` + talks + `; program exit; peer read-end`,
	"a child, when data and end have come": `
		peer write; peer shutdown; program await-unread; program fork; program read; program read-end
		upload; program write; peer read; program exit; peer read-end`,
	"a child beside its parent": `
		program fork-and-keep;` + talks + `; upload;` + talks + `; program close; program exit; peer read-end`,
	"a child of a child": `
		program fork; program fork-and-keep; upload; offload;` + talks + `; program kill; peer read-end`,
	"a process that is sent it": `
		program send; program receive;` + talks + `; upload;` + talks + `; program exit; peer read-end`,
	"nobody while it is sent": `
		program send; home; peer write; program receive; program read; home;` + talks + `; program exit; peer read-end`,
}

// Whoever goes on with a connection finds it as in the kernel, and it comes home
// from there.
func TestHeirs(t *testing.T) { playEverywhere(t, heirs) }
