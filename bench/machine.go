package main

import (
	"context"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"
)

// machine is what figures depend on.
type machine struct {
	processor string
	cpus      int
	memory    string
	kernel    string
	versions  []string // of all that took part
	date      string
	command   string
}

func describe(ctx context.Context, p *park, ways []way) machine {
	m := machine{
		processor: processor(),
		cpus:      runtime.NumCPU(),
		memory:    memory(),
		kernel:    strings.TrimSpace(contents("/proc/sys/kernel/osrelease")),
		date:      time.Now().UTC().Format("2006-01-02 15:04 UTC"),
		command:   "bench " + strings.Join(os.Args[1:], " "),
	}
	m.versions = append(m.versions, "redis-server "+p.version,
		version(ctx, p.crossfade, "version"))
	flags := map[string]string{"haproxy": "-v", "twemproxy": "-V", "predixy": "-v"}
	for _, w := range ways {
		for _, other := range peers {
			if other.name == w.name {
				m.versions = append(m.versions, version(ctx, other.binary(), flags[w.name]))
			}
		}
	}
	return m
}

// version is the first line that a program prints about itself.
func version(ctx context.Context, binary, flag string) string {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, binary, flag).CombinedOutput() // some end with a status of 1
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	words := strings.Fields(strings.TrimPrefix(line, "This is "))
	if len(words) > 1 && strings.Contains(words[0], "/") { // its own path
		words = words[1:]
	}
	for i, w := range words {
		if strings.HasPrefix(w, "http") {
			words = words[:i]
			break
		}
	}
	return strings.TrimSuffix(strings.Join(words, " "), " -")
}

// processor names the CPU.
func processor() string {
	for line := range strings.Lines(contents("/proc/cpuinfo")) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func memory() string {
	for line := range strings.Lines(contents("/proc/meminfo")) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err == nil {
				return strconv.FormatFloat(kib*1024/1e9, 'f', 0, 64) + " GB"
			}
		}
	}
	return "unknown memory"
}

// contents are empty where there is no such file.
func contents(path string) string {
	text, _ := os.ReadFile(path)
	return string(text)
}
