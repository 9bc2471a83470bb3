package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// tick is the unit of the times in /proc/PID/stat, the same on all of Linux' ports
// that Go has.
const tick = 10 * time.Millisecond

// cpuTime is the processor time that a process has used, in user mode and in the
// kernel, of all its threads.
func cpuTime(pid int) (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, fmt.Errorf("reading a process's time: %w", err)
	}
	return parseCPU(string(text))
}

// parseCPU reads the fields 14 and 15. The second one is a name in parentheses,
// which may hold anything.
func parseCPU(stat string) (time.Duration, error) {
	i := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[i+1:])
	if i < 0 || len(fields) < 13 {
		return 0, fmt.Errorf("reading a process's time: too few fields: %q", stat)
	}
	var ticks int64
	for _, f := range fields[11:13] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("reading a process's time: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * tick, nil
}

// processors is how long the machine's processors have worked since it was started, and how
// long they were there, all together.
type processors struct{ busy, whole time.Duration }

func processorTime() (processors, error) {
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return processors{}, fmt.Errorf("reading the processors' time: %w", err)
	}
	return parseProcessors(string(text))
}

// parseProcessors reads the line of all processors: user, nice, system, idle, iowait, irq,
// softirq, steal, and two that are in the first two already.
func parseProcessors(stat string) (p processors, err error) {
	line, _, _ := strings.Cut(stat, "\n")
	fields := strings.Fields(line)
	if len(fields) < 9 || fields[0] != "cpu" {
		return p, fmt.Errorf("reading the processors' time: %q", line)
	}
	for i, f := range fields[1:9] {
		n, err := strconv.ParseInt(f, 10, 64)
		if err != nil {
			return p, fmt.Errorf("reading the processors' time: %w", err)
		}
		p.whole += time.Duration(n) * tick
		if i != 3 && i != 4 {
			p.busy += time.Duration(n) * tick
		}
	}
	return p, nil
}

// since is the percentage that was in use from o to p.
func (p processors) since(o processors) float64 {
	if p.whole == o.whole {
		return 0
	}
	return 100 * float64(p.busy-o.busy) / float64(p.whole-o.whole)
}

// residentMB is the memory that a process holds, in MB (10^6 bytes).
func residentMB(pid int) (float64, error) { return memoryMB(pid, "VmRSS:") }

// peakMB is the most that a process has held, in MB.
func peakMB(pid int) (float64, error) { return memoryMB(pid, "VmHWM:") }

func memoryMB(pid int, field string) (float64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("reading a process's memory: %w", err)
	}
	return parseMemory(string(text), field)
}

func parseMemory(status, field string) (float64, error) {
	for line := range strings.Lines(status) {
		if rest, ok := strings.CutPrefix(line, field); ok {
			kib, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 64)
			if err != nil {
				return 0, fmt.Errorf("reading a process's memory: %w", err)
			}
			return kib * 1024 / 1e6, nil
		}
	}
	return 0, fmt.Errorf("reading a process's memory: no %s in %q", field, status)
}
