package acl

import "testing"

// Before 7.0 a subcommand is an argument of its command, and is allowed as that is.
func TestMay(t *testing.T) {
	old := NewCatalog(map[string][]string{"pubsub": {"subscribe"}, "connection": {"client"}, "admin": {"client"}})
	now := NewCatalog(map[string][]string{"pubsub": {"subscribe", "ssubscribe"}, "connection": {"client", "client|id", "client|kill"}, "admin": {"client|kill"}})
	for _, tt := range []struct {
		of      Catalog
		rules   []string
		command string
		may     bool
	}{
		{old, []string{"+@all"}, "client|id", true},
		{old, []string{"-@all", "+client|id"}, "client|id", true},
		{old, []string{"-@all", "+client|id"}, "client|caching", false},
		{old, []string{"+@all", "-@admin"}, "client|id", false},
		{old, []string{"+@all"}, "ssubscribe", false}, // it is not there
		{now, []string{"+@all", "-@admin"}, "client|id", true},
		{now, []string{"-@all", "+client"}, "client|id", true},
		{now, []string{"+@all", "-@pubsub"}, "ssubscribe", false},
		{now, []string{"-@all", "+@pubsub", "-subscribe"}, "ssubscribe", true},
		{now, nil, "subscribe", false},
	} {
		if may := tt.of.May(tt.rules, tt.command); may != tt.may {
			t.Errorf("%v allow %s: %v", tt.rules, tt.command, may)
		}
	}
}
