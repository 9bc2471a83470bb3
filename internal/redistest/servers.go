package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// Program is a server program that tests may start beside the usual one.
type Program struct{ Name, Path string }

// Programs reads CROSSFADE_SERVERS: "redis-6.2=/path/redis-server,valkey-8.0=…".
// There are none when it is empty. An error names the part that is wrong, so that a
// mistake there does not look like a success.
func Programs() ([]Program, error) {
	var all []Program
	for part := range strings.SplitSeq(os.Getenv("CROSSFADE_SERVERS"), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, path, ok := strings.Cut(part, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("CROSSFADE_SERVERS: %q is not name=path", part)
		}
		found, err := exec.LookPath(path)
		if err != nil {
			return nil, fmt.Errorf("CROSSFADE_SERVERS: %s: %w", name, err)
		}
		all = append(all, Program{Name: name, Path: found})
	}
	return all, nil
}
