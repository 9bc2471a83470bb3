package keyspec

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var errOld = errors.New("the server is older than 7.0, or no Redis")

// Parse reads the reply to COMMAND or COMMAND INFO, in the form of either protocol: what
// a server of 7.0 or newer says of its commands. Of an older one there is an error, since
// it tells of no specs. Commands that it does not have are left out.
func Parse(reply []any) ([]Command, error) {
	var list []Command
	for _, el := range reply {
		if el == nil {
			continue
		}
		c, err := command(el)
		if err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	slices.SortFunc(list, func(a, b Command) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func command(el any) (Command, error) {
	row, _ := el.([]any)
	if len(row) < 10 {
		return Command{}, fmt.Errorf("%w: COMMAND has %d fields of a command", errOld, len(row))
	}
	name, named := row[0].(string)
	arity, counted := row[1].(int64)
	specs, listed := row[8].([]any)
	subs, ranged := row[9].([]any)
	if !named || !counted || !listed || !ranged {
		return Command{}, fmt.Errorf("COMMAND: the fields of %v are of other types than servers' are", row[0])
	}
	c := Command{Name: strings.ToLower(name), Arity: int(arity), Flags: sorted(row[2]), Tips: sorted(row[7])}
	for _, s := range specs {
		spec, err := specOf(s)
		if err != nil {
			return Command{}, fmt.Errorf("COMMAND: %s: %w", c.Name, err)
		}
		c.Specs = append(c.Specs, spec)
	}
	var err error
	if c.Subs, err = Parse(subs); err != nil {
		return Command{}, err
	}
	for _, sub := range c.Subs {
		if !strings.HasPrefix(sub.Name, c.Name+"|") {
			return Command{}, fmt.Errorf("COMMAND: %q is no subcommand of %q", sub.Name, c.Name)
		}
	}
	return c, nil
}

func specOf(el any) (Spec, error) {
	spec := fields(el)
	if spec == nil {
		return Spec{}, fmt.Errorf("a key spec is %v", el)
	}
	var s Spec
	for flag := range strings.FieldsSeq(sorted(spec["flags"])) {
		if i := slices.Index(useNames[:], flag); i >= 0 {
			s.Use |= 1 << i
		}
	}
	begin, find := fields(spec["begin_search"]), fields(spec["find_keys"])
	from, how := fields(begin["spec"]), fields(find["spec"])
	switch begin["type"] {
	case "index":
		s.Begin.At = number(from["index"])
	case "keyword":
		s.Begin.Word, _ = from["keyword"].(string)
		s.Begin.At = number(from["startfrom"])
	}
	switch find["type"] {
	case "range":
		s.Find = Find{Step: number(how["keystep"]), Last: number(how["lastkey"]), Limit: number(how["limit"])}
	case "keynum":
		s.Find = Find{Step: number(how["keystep"]), Counted: true, Number: number(how["keynumidx"]), First: number(how["firstkey"])}
	}
	return s, nil
}

// fields reads a map, which is a list of two elements each in RESP2; nil when it is none.
func fields(el any) map[string]any {
	switch el := el.(type) {
	case map[any]any:
		m := make(map[string]any, len(el))
		for k, v := range el {
			if name, ok := k.(string); ok {
				m[name] = v
			}
		}
		return m
	case []any:
		m := make(map[string]any, len(el)/2)
		for i := 0; i+1 < len(el); i += 2 {
			if name, ok := el[i].(string); ok {
				m[name] = el[i+1]
			}
		}
		return m
	}
	return nil
}

func number(el any) int {
	n, _ := el.(int64)
	return int(n)
}

// sorted joins words.
func sorted(el any) string {
	list, _ := el.([]any)
	words := make([]string, 0, len(list))
	for _, w := range list {
		words = append(words, fmt.Sprint(w))
	}
	slices.Sort(words)
	return strings.Join(words, " ")
}
