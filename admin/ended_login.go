package admin

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/keyturn/keyturn/config"
	"github.com/keyturn/keyturn/keys"
	"github.com/keyturn/keyturn/storage"
)

// How long after the end of a login a resource server accepts its access tokens.
const (
	acceptedByIntrospection = time.Second
	acceptedByStatusList    = 17 * time.Second // a second for the server, one for the network, and the ttl
)

// EndedLogin is how long resource servers accept an access token of a client after its login has ended, by the way in
// which they check it.
type EndedLogin struct {
	Introspection keys.Span  `json:"introspection"`
	StatusList    *keys.Span `json:"status_list"` // null: access tokens have no status
	Offline       keys.Span  `json:"offline"`     // neither: until the token expires
}

// String says it in a sentence.
func (e EndedLogin) String() string {
	list := "status_list is off"
	if e.StatusList != nil {
		list = "about " + config.FormatDuration(time.Duration(*e.StatusList)) + " with the status list"
	}
	return fmt.Sprintf("%s with introspection; %s; with neither, %s (until exp)",
		config.FormatDuration(time.Duration(e.Introspection)), list, config.FormatDuration(time.Duration(e.Offline)))
}

// endedLogin returns it for a client.
func (a *core) endedLogin(c Client) EndedLogin {
	e := EndedLogin{Introspection: keys.Span(acceptedByIntrospection), Offline: keys.Span(a.config.AccessTTL)}
	if c.AccessTTL != 0 {
		e.Offline = keys.Span(c.AccessTTL)
	}
	if a.config.StatusList == config.StatusListOn {
		list := keys.Span(acceptedByStatusList)
		e.StatusList = &list
	}
	return e
}

// ClientDetails is a client with what follows from its settings and those of the servers.
type ClientDetails struct {
	Client
	EndedLogin EndedLogin `json:"ended_login_accepted_for"`
}

// Details finds a client. It may return ErrNotFound.
func (a Clients) Details(ctx context.Context, id string) (ClientDetails, error) {
	c, err := a.Find(ctx, id)
	return ClientDetails{c, a.endedLogin(c)}, err
}

// KeyUse is what one client holds for one audience by a key.
type KeyUse struct {
	storage.KeyUse
	EndedLogin EndedLogin `json:"ended_login_accepted_for"`
}

// withEndings adds to each use how long an ended login of its client is accepted.
func (a *core) withEndings(ctx context.Context, use []storage.KeyUse) ([]KeyUse, error) {
	all := []KeyUse{}
	for _, u := range use {
		c, err := a.db.Clients().ByID(ctx, u.ClientID)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		all = append(all, KeyUse{u, a.endedLogin(c)})
	}
	return all, nil
}
