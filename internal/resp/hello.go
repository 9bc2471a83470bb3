package resp

import "fmt"

// Program is what a server says of itself in its answer to HELLO.
type Program struct {
	Name         string // "redis", "valkey" and their like; "" for an answer that is none
	Major, Minor int    // 0 where it tells no version
}

// ProgramOf reads the answer to HELLO, of either protocol.
func ProgramOf(hello []byte) (p Program) {
	about := Elements(hello)
	for i := 0; i+1 < len(about); i += 2 {
		field, _, _ := Text(about[i])
		text, _, _ := Text(about[i+1])
		switch string(field) {
		case "server":
			p.Name = string(text)
		case "version":
			if _, err := fmt.Sscanf(string(text), "%d.%d", &p.Major, &p.Minor); err != nil {
				p.Major, p.Minor = 0, 0
			}
		}
	}
	return p
}

// IDOf reads the connection's id at the server in the answer to HELLO, of either protocol.
func IDOf(hello []byte) (id int64, ok bool) {
	about := Elements(hello)
	for i := 0; i+1 < len(about); i += 2 {
		if field, _, _ := Text(about[i]); string(field) == "id" {
			text, _, _ := Text(about[i+1])
			return Integer(text)
		}
	}
	return 0, false
}

// Before reports whether it is known to be older than that version.
func (p Program) Before(major, minor int) bool {
	return p.Major > 0 && (p.Major < major || p.Major == major && p.Minor < minor)
}

// WaitsForAll reports whether a server that answered HELLO so has WAIT wait for all that
// was replicated before the connection's last command, whoever wrote it. Redis does so
// before 7.2 (server.c sets woff behind every command there, and later only behind those
// that were replicated); servers without HELLO are older still.
func WaitsForAll(hello []byte) bool {
	return IsError(hello) || ProgramOf(hello).Before(7, 2)
}
