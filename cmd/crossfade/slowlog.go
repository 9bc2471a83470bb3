package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/crossfade/crossfade/admin"
)

func slowlogVerb() *verb {
	return &verb{name: "slowlog", short: "show the commands that took long", run: slowlog, long: `
The latest ones first, as many as proxy.slow_log_entries, that took
proxy.slow_log_slower_than or more. Keys and values are not in it. Commands that
block (BLPOP and the like) are never slow.`}
}

func slowlog(ctx context.Context, s *session) error {
	f := s.flagsOf(doorFlags...)
	asJSON := f.set.Bool("json", false, "print JSON")
	c, err := f.parse()
	if err != nil {
		return err
	}
	door, err := client(c)
	if err != nil {
		return err
	}
	defer door.Close()
	list, err := door.Slow(ctx)
	if err != nil {
		return err
	}
	if *asJSON {
		return printJSON(s.stdout, admin.SlowReply{Slow: list})
	}
	if _, err := io.WriteString(s.stdout, renderSlow(list)); err != nil {
		return fmt.Errorf("printing the slow log: %w", err)
	}
	return nil
}

// renderSlow is the slow log for people, in 80 columns.
func renderSlow(list []admin.SlowCommand) string {
	if len(list) == 0 {
		return "no slow command\n"
	}
	const row = "%-8s %-10s %3s %5s %7s %8s %8s  %s\n"
	var b strings.Builder
	fmt.Fprintf(&b, row, "time", "command", "db", "args", "bytes", "upstream", "total", "client")
	for _, c := range list {
		fmt.Fprintf(&b, row, when(c.Time), clip(c.Command, 10), fmt.Sprint(c.Database), fmt.Sprint(c.Args), count(int64(c.Bytes)),
			brieflyMS(c.UpstreamMS), brieflyMS(c.TotalMS), c.Client)
	}
	return b.String()
}

// when is the hour of a time, or its day where that was another one.
func when(t time.Time) string {
	t = t.Local()
	if time.Since(t) < 20*time.Hour {
		return t.Format(time.TimeOnly)
	}
	return t.Format("2 Jan")
}

// clip shortens a word that would not fit.
func clip(word string, width int) string {
	if len(word) > width {
		return word[:width-1] + "…"
	}
	return word
}

// brieflyMS writes milliseconds in at most eight columns.
func brieflyMS(ms float64) string {
	d := time.Duration(ms * float64(time.Millisecond))
	switch {
	case d >= time.Minute:
		return clock(d.Seconds())
	case d >= 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case ms >= 100:
		return fmt.Sprintf("%.0fms", ms)
	case ms >= 10:
		return fmt.Sprintf("%.1fms", ms)
	}
	return fmt.Sprintf("%.2fms", ms)
}

// trafficLine says how much goes on.
func trafficLine(p *admin.ProxyStatus) string {
	text := ""
	if p.Recent.Seconds > 0 {
		text = count(int64(p.Recent.PerSecond)) + "/s, "
	}
	text += fmt.Sprintf("%s commands, %s in flight, %s", count(p.Commands), count(int64(p.InFlight.Shared+p.InFlight.Pinned)),
		plural(p.Clients.Shared+p.Clients.Pinned, "client"))
	if p.Recent.Errors > 0 {
		text += fmt.Sprintf(", %s of late", plural(int(p.Recent.Errors), "error"))
	}
	return text
}

// latencyLine says how long commands take upstream, and with the proxy.
func latencyLine(r admin.Recent) string {
	return fmt.Sprintf("p50 %s, p99 %s; of it upstream p50 %s, p99 %s", brieflyMS(r.TotalMS.P50), brieflyMS(r.TotalMS.P99),
		brieflyMS(r.UpstreamMS.P50), brieflyMS(r.UpstreamMS.P99))
}
