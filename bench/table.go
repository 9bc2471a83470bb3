package main

import (
	"fmt"
	"io"
	"strings"
)

// columns of the table: 79 characters in all.
const columns = "%-10s%10s%7s%9s%9s%9s%8s%8s%9s\n"

// explain says what the columns are.
const explain = `share: of direct's requests/s in the same round. p50, p99, p999: ms.
proxy, server: µs of processor time a request, which is also processor seconds
per million requests. RSS: of the proxy, MB. All are medians over the rounds.
`

// print writes a cell's table to a terminal.
func (r *result) print(out io.Writer, ways []way) {
	_, _ = fmt.Fprintf(out, "\n%s: %s\n", r.cell.name, r.cell)
	_, _ = fmt.Fprintf(out, columns, "", "requests/s", "share", "p50", "p99", "p999", "proxy", "server", "RSS")
	for _, w := range ways {
		if why := r.failed[w.name]; why != "" {
			_, _ = fmt.Fprintf(out, "%-10s  %.66s\n", w.name, why)
			continue
		}
		_, _ = fmt.Fprintf(out, columns, r.row(w)...)
	}
}

// row is a way's line: its name, then the columns.
func (r *result) row(w way) []any {
	proxy, rss := "", ""
	if w.pid != 0 {
		proxy, rss = number(r.over(w.name, proxyOf)), number(r.over(w.name, rssOf))
	}
	return []any{w.name, fmt.Sprintf("%.0f", r.over(w.name, rateOf)), fmt.Sprintf("%.2f", r.ratio(w.name, direct, rateOf)),
		number(r.over(w.name, p50Of)), number(r.over(w.name, p99Of)), number(r.over(w.name, p999Of)),
		proxy, number(r.over(w.name, serverOf)), rss}
}

// number has about three digits that mean something.
func number(v float64) string {
	switch {
	case v >= 100:
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v >= 1:
		return fmt.Sprintf("%.2f", v)
	}
	return fmt.Sprintf("%.3f", v)
}

// markdown writes the report.
func markdown(out io.Writer, m machine, rounds int, seconds float64, ways []way, rs results, claims []claim) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(out, format, args...) }
	p("# What a hop costs\n\nMade by `make bench`; do not edit.\n\n![Shares of direct](results.svg)\n\n")
	p("- machine: %s, %d CPUs, %s; Linux %s\n", m.processor, m.cpus, m.memory, m.kernel)
	p("- versions: %s\n- date: %s\n- command: `%s`\n", strings.Join(m.versions, "; "), m.date, m.command)
	p("- load: redis-benchmark; the cells with one client or mixed commands by bench/load\n")
	p("- every way leads to the same server process on the same machine, which load,\n  proxy and server share; %d rounds of %g s, in each of which every way has its turn\n", rounds, seconds)
	p("- haproxy, twemproxy and predixy have one thread each; crossfade has the default of\n  proxy.loops: shared one for four processors, at least one; pinned one for each, at most eight\n")
	p("- crossfade's migration has ended, so nothing is copied meanwhile: what a copy costs those\n  beside it is what `make bench-bulk` measures\n")
	p("\n%s", explain)
	p("\n## Requests a second, share of direct\n\n| cell |")
	for _, w := range ways {
		p(" %s |", w.name)
	}
	p("\n|---|%s\n", strings.Repeat("--:|", len(ways)))
	for _, r := range rs {
		p("| %s |", r.cell.name)
		for _, w := range ways {
			switch {
			case !r.has(w.name):
				p(" – |")
			case w.name == direct:
				p(" %.0f/s |", r.over(direct, rateOf))
			default:
				p(" %.2f |", r.ratio(w.name, direct, rateOf))
			}
		}
		p("\n")
	}
	p("\n## Claims\n\n")
	for _, c := range claims {
		p("- %s\n", c)
	}
	p("\n## All figures\n")
	for _, r := range rs {
		p("\n**%s**: %s\n\n", r.cell.name, r.cell)
		p("| way | requests/s | share | p50 | p99 | p999 | proxy | server | RSS |\n|---|%s\n", strings.Repeat("--:|", 8))
		for _, w := range ways {
			if why := r.failed[w.name]; why != "" {
				p("| %s | %s |||||||||\n", w.name, strings.ReplaceAll(why, "|", "/"))
				continue
			}
			p("| %s | %s | %s | %s | %s | %s | %s | %s | %s |\n", r.row(w)...)
		}
	}
}
