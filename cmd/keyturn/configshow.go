package main

import (
	"fmt"
	"reflect"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/keyturn/keyturn/server"
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
	addSettings(c.Flags(), scopeAll)
	c.Flags().BoolVar(&origin, "origin", false, "tell where each setting comes from")
	c.RunE = func(c *cobra.Command, _ []string) error {
		config, err := a.config(c.Flags(), false)
		if err != nil {
			return err
		}
		var shown []shownSetting
		for _, s := range settings {
			value := reflect.ValueOf(config).Field(s.index).Interface()
			var connection any
			if s.key == "database" {
				value = server.WithoutPassword(config.Database)
				if t := server.DatabaseTarget(config); t != nil {
					connection = t
				}
			}
			from := a.origins[s.key]
			if from == "" {
				from = "default"
			}
			shown = append(shown, shownSetting{
				Key:        s.key,
				Value:      value,
				Origin:     from,
				Reload:     s.reload,
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
	switch v := value.(type) {
	case server.List:
		return strings.Join(v, ",")
	case fmt.Stringer:
		return v.String()
	}
	return value
}
