package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/crossfade/crossfade/migration"
	"github.com/crossfade/crossfade/sync/mirror"
)

// lagLine says how far the other server is behind.
func lagLine(st migration.Status) string {
	text := millis(st.LagMS)
	if st.LagP99MS > 0 {
		text += fmt.Sprintf(" (p50 %s, p99 %s)", millis(st.LagP50MS), millis(st.LagP99MS))
	}
	text += ", " + plural(st.Dirty, "key") + " dirty"
	if st.OldestMS > 0 {
		text += ", the oldest change " + millis(st.OldestMS)
	}
	if st.Feed == mirror.FeedTracking {
		text += ", by CLIENT TRACKING"
	}
	return text
}

// lossLines name the keys that cannot be copied, and say of how many the fields'
// expiries were left behind.
func lossLines(st migration.Status) []string {
	var out []string
	stuck, lossy := 0, 0
	for _, d := range st.Databases {
		stuck, lossy = stuck+d.Uncopied, lossy+d.Lossy
	}
	for _, k := range st.Uncopied {
		out = append(out, fmt.Sprintf("%.60q in database %d: %s", k.Key, k.Database, k.Why))
	}
	if more := stuck - len(st.Uncopied); more > 0 {
		out = append(out, fmt.Sprintf("and %d more", more))
	}
	if lossy > 0 {
		out = append(out, fmt.Sprintf("the expiries of fields of %s, as sync.field_expiries says: drop", plural(lossy, "hash key")))
	}
	return out
}

// viewLines tell how the notifications and the proxy's own view differ.
func viewLines(v mirror.Views) []string {
	var out []string
	if v.Bypassed > 0 {
		text := fmt.Sprintf("somebody writes past the proxy: about %s", plural(int(v.Bypassed), "change"))
		if v.PerSecond > 0 {
			text += fmt.Sprintf(", %.0f a second now", v.PerSecond)
		}
		text += fmt.Sprintf(", databases %s, keys like %s", strings.Trim(fmt.Sprint(v.Databases), "[]"), quotedList(v.Keys))
		if len(v.Clients) > 0 {
			text += "; connected past it: " + strings.Join(v.Clients, "; ")
		}
		out = append(out, text)
	}
	for _, command := range slices.Sorted(maps.Keys(v.Unannounced)) {
		out = append(out, fmt.Sprintf("%s of %s through the proxy caused no notification", plural(int(v.Unannounced[command]), "write"), strings.ToUpper(command)))
	}
	return out
}

func quotedList(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = fmt.Sprintf("%.60q", s)
	}
	return strings.Join(quoted, ", ")
}
