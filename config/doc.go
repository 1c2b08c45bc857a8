// Package config is the settings of keyturn: one struct, its defaults, the rules that its values keep, and the manual
// of each setting. It imports nothing else of keyturn. Commands parse a configuration once, at the edge (cmd/keyturn),
// and hand on values that keep the rules.
package config
