package config

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Place is where a source database goes: a database of the target, whole, or beside
// others those of its keys that begin with Prefix.
type Place struct {
	DB     int
	Prefix string
}

// String returns "5", or "0:c3:" for database 0 and the prefix "c3:".
func (p Place) String() string {
	if p.Prefix == "" {
		return strconv.Itoa(p.DB)
	}
	return strconv.Itoa(p.DB) + ":" + p.Prefix
}

// parsePlace is the inverse of String.
func parsePlace(text string) (Place, error) {
	number, prefix, has := strings.Cut(strings.TrimSpace(text), ":")
	db, err := parseDatabase(number)
	if err == nil && has && prefix == "" {
		err = errors.New("no prefix")
	}
	return Place{DB: db, Prefix: prefix}, err
}

// parsePairs reads "0=0,3=5,4=0:c4:". A source database that is named twice is an
// error even with the same place: one of the two is a slip.
func parsePairs(text string) (map[int]Place, error) {
	var pairs map[int]Place
	for item := range items(text) {
		from, to, _ := strings.Cut(item, "=")
		source, err1 := parseDatabase(from)
		place, err2 := parsePlace(to)
		if err1 != nil || err2 != nil {
			return nil, fmt.Errorf("is not a database map (%q): write SOURCE=TARGET or SOURCE=TARGET:PREFIX with commas, such as 0=0:c0:,3=0:c3: or 0=0,3=5", brief(item))
		}
		if before, there := pairs[source]; there {
			return nil, fmt.Errorf("names source database %d twice (to %s and to %s): name it once", source, before, place)
		}
		if pairs == nil {
			pairs = map[int]Place{}
		}
		pairs[source] = place
	}
	return pairs, nil
}

// formatPairs is the inverse of parsePairs.
func formatPairs(pairs map[int]Place) string {
	var texts []string
	for _, from := range slices.Sorted(maps.Keys(pairs)) {
		texts = append(texts, fmt.Sprintf("%d=%s", from, pairs[from]))
	}
	return strings.Join(texts, ",")
}

// placeText gives a place of a file, {db: 0, prefix: "c3:"}, the form that it has as a
// flag.
func placeText(node *yaml.Node) (string, bool) {
	var db, prefix string
	for i := 0; i+1 < len(node.Content); i += 2 {
		name, value := resolve(node.Content[i]), resolve(node.Content[i+1])
		if value.Kind != yaml.ScalarNode || !plainTags[value.ShortTag()] || isNull(value) || strings.ContainsAny(value.Value, ",=") {
			return "", false
		}
		switch {
		case name.Value == "db" && db == "" && !strings.Contains(value.Value, ":"):
			db = value.Value
		case name.Value == "prefix" && prefix == "" && value.Value != "":
			prefix = ":" + value.Value
		default:
			return "", false
		}
	}
	return db + prefix, db != ""
}

// placesNode writes the map of databases.
func placesNode(pairs map[int]Place) *yaml.Node {
	node := &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	for _, from := range slices.Sorted(maps.Keys(pairs)) {
		place := scalar(strconv.Itoa(pairs[from].DB), "!!int")
		if prefix := pairs[from].Prefix; prefix != "" {
			text := scalar(prefix, "!!str")
			text.Style = yaml.DoubleQuotedStyle
			place = &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle, Content: []*yaml.Node{
				scalar("db", "!!str"), place, scalar("prefix", "!!str"), text,
			}}
		}
		node.Content = append(node.Content, scalar(strconv.Itoa(from), "!!int"), place)
	}
	return node
}

// checkDatabases says what the map of databases cannot be. A prefix is looked at by the
// same rules as where it is used.
func (c Config) checkDatabases() []error {
	var problems []error
	into := map[int][]int{} // target: sources
	for _, from := range slices.Sorted(maps.Keys(c.Databases)) {
		to := c.Databases[from]
		if from < 0 || to.DB < 0 {
			problems = append(problems, fmt.Errorf("databases: %d=%s is negative: databases count from 0", from, to))
			continue
		}
		if why := badPrefix(to.Prefix); why != "" {
			problems = append(problems, fmt.Errorf("databases: %d=%s: the prefix %s", from, to, why))
		}
		for _, other := range into[to.DB] {
			if why := c.clash(other, from); why != "" {
				problems = append(problems, fmt.Errorf("databases: %d=%s and %d=%s %s", other, c.Databases[other], from, to, why))
			}
		}
		into[to.DB] = append(into[to.DB], from)
		if slices.Contains(c.LeaveOut, from) {
			problems = append(problems, fmt.Errorf("leave_out: %d is mapped as well (databases: %d=%s): keep one of the two", from, from, to))
		}
	}
	for _, number := range c.LeaveOut {
		if number < 0 {
			problems = append(problems, fmt.Errorf("leave_out: %d is negative: databases count from 0", number))
		}
	}
	return problems
}

// clash says why two source databases cannot go to one target database as they are
// mapped, or "".
func (c Config) clash(one, other int) string {
	a, b := c.Databases[one], c.Databases[other]
	switch {
	case a.Prefix == "" && b.Prefix == "":
		return fmt.Sprintf("would overwrite each other in target database %d: give each a target of its own, or a prefix", a.DB)
	case a.Prefix == "" || b.Prefix == "":
		return fmt.Sprintf("share target database %d, and one of them has no prefix there: give both one", a.DB)
	case strings.HasPrefix(a.Prefix, b.Prefix) || strings.HasPrefix(b.Prefix, a.Prefix):
		return fmt.Sprintf("share target database %d, and one prefix begins the other, so that a key might be either's: give prefixes of which none begins another", a.DB)
	}
	return ""
}

// badPrefix says what is wrong with a prefix, or "".
func badPrefix(prefix string) string {
	const ours, longest = "crossfade:", 100
	strange := func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune(`,=\"'*`, c) }
	switch {
	case prefix == "":
		return ""
	case len(prefix) > longest:
		return fmt.Sprintf("is %d bytes long: give %d at most, every key has them", len(prefix), longest)
	case strings.ContainsFunc(prefix, strange):
		return "has a character that it may not have: use printable ones without spaces, commas, =, quotes, stars and backslashes"
	case strings.HasPrefix(prefix, ours) || strings.HasPrefix(ours, prefix):
		return fmt.Sprintf("may be confused with %q, which begins the keys that the sidecar keeps for itself: choose another", ours)
	}
	return ""
}
