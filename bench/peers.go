package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// peer is another proxy, as its own documentation advises to run it before one
// server: one thread, since a second one has no core of its own here.
type peer struct {
	name   string
	binary func() string // "" when it is not there
	// files are written into the folder, args name them. Both get these words
	// replaced: PORT and STATS (free ports), UPHOST and UPPORT (the server), DIR.
	files map[string]string
	args  []string
}

// inPath finds a program of a package. Debian puts daemons where only root looks.
func inPath(name string) func() string {
	return func() string {
		for _, candidate := range []string{name, "/usr/sbin/" + name} {
			if path, err := exec.LookPath(candidate); err == nil {
				return path
			}
		}
		return ""
	}
}

var haproxy = peer{
	name: "haproxy", binary: inPath("haproxy"),
	files: map[string]string{"haproxy.cfg": `global
  nbthread 1
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen redis
  bind 127.0.0.1:PORT
  server one UPHOST:UPPORT
`},
	args: []string{"-db", "-f", "DIR/haproxy.cfg"},
}

var peers = []peer{
	haproxy,
	{
		name: "twemproxy", binary: inPath("nutcracker"),
		files: map[string]string{"twemproxy.yml": `bench:
  listen: 127.0.0.1:PORT
  redis: true
  hash: fnv1a_64
  distribution: ketama
  preconnect: true
  auto_eject_hosts: false
  servers:
    - UPHOST:UPPORT:1
`},
		args: []string{"-c", "DIR/twemproxy.yml", "-a", "127.0.0.1", "-s", "STATS"},
	},
	{
		name: "predixy", binary: func() string { return os.Getenv("PREDIXY") },
		files: map[string]string{"predixy.conf": `Name bench
Bind 127.0.0.1:PORT
WorkerThreads 1
ClientTimeout 0
LogInfoSample 0
Authority {
    Auth {
        Mode admin
    }
}
StandaloneServerPool {
    Databases 1
    Hash crc16
    Distribution modula
    MasterReadPriority 60
    RefreshMethod fixed
    ServerTimeout 0
    Group one {
        + UPHOST:UPPORT
    }
}
`},
		args: []string{"DIR/predixy.conf"},
	},
}

// start runs a peer before the server at upstream, with its files in dir, and
// returns once it answers. Both results are zero where there is no such program.
func (p *peer) start(ctx context.Context, dir, upstream string) (*process, string, error) {
	binary := p.binary()
	if binary == "" {
		return nil, "", nil
	}
	fail := func(err error) (*process, string, error) {
		return nil, "", fmt.Errorf("starting %s: %w", p.name, err)
	}
	port, err := freePort()
	if err != nil {
		return fail(err)
	}
	stats, err := freePort()
	if err != nil {
		return fail(err)
	}
	host, upPort, _ := strings.Cut(upstream, ":")
	words := strings.NewReplacer("STATS", stats, "UPHOST", host, "UPPORT", upPort, "PORT", port, "DIR", dir)
	for name, text := range p.files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(words.Replace(text)), 0o600); err != nil {
			return fail(err)
		}
	}
	var args []string
	for _, a := range p.args {
		args = append(args, words.Replace(a))
	}
	proc, err := launch(p.name, filepath.Join(dir, p.name+".log"), binary, args...)
	if err != nil {
		return nil, "", err
	}
	addr := "127.0.0.1:" + port
	if err := awaitPong(ctx, addr, proc.done); err != nil {
		proc.stop()
		return fail(fmt.Errorf("%w; its last words:\n%s", err, proc.words()))
	}
	return proc, addr, nil
}
