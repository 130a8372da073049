// Package policy decides which connections are to be on the device: by rules
// that an operator writes, and by the facts of each connection. It is pure:
// facts and the time come in, decisions go out.
package policy
