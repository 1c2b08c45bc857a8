package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/config"
)

// shownSetting is one setting as `config show` prints it.
type shownSetting struct {
	Key    string `json:"key"`
	Value  any    `json:"value"`
	Origin string `json:"origin"`
	Reload bool   `json:"reload"` // it may change while the server runs
	// Connection is where a postgres:// URL leads to: whatever the URL does not say is filled in, and nothing else
	// changes it.
	Connection any `json:"connection,omitempty"`
}

func (a *app) configShow() *cobra.Command {
	var origin bool
	c := &cobra.Command{
		Use:   "show",
		Short: "Print the configuration that serve would have, without secrets",
		Args:  cobra.NoArgs,
	}
	addSettings(c.Flags(), config.ScopeServe)
	c.Flags().BoolVar(&origin, "origin", false, "tell where each setting comes from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		set, err := a.settings(c.Flags(), false)
		if err != nil {
			return err
		}
		var shown []shownSetting
		for _, s := range config.Settings {
			value := s.Value(set.Config)
			var connection any
			if s.Key == "database" {
				value = set.place.Database.String()
				if t, ok := set.place.Database.Target(); ok {
					connection = &t
				}
			}
			from := a.origins[s.Key]
			if from == "" {
				from = "default"
			}
			shown = append(shown, shownSetting{
				Key:        s.Key,
				Value:      value,
				Origin:     from,
				Reload:     s.Reload,
				Connection: connection,
			})
		}
		return a.print(shown, func() {
			for _, s := range shown {
				text, _ := yaml.Marshal(map[string]any{s.Key: textOf(s.Value)})
				line := strings.TrimRight(string(text), "\n")
				if origin {
					line = fmt.Sprintf("%-50s # %s", line, s.Origin)
				}
				fmt.Fprintln(a.stdout, line)
				if s.Connection != nil {
					fmt.Fprintf(a.stdout, "# it connects to %v\n", s.Connection)
				}
			}
		})
	}
	return c
}

// textOf is a value as it stands in a file.
func textOf(value any) any {
	if list, ok := value.(config.List); ok {
		return strings.Join(list, ",")
	}
	return value
}
