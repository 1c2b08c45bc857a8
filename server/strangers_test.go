package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/keyturn/keyturn/keys/keystest"
	"github.com/keyturn/keyturn/server/servertest"
	"github.com/keyturn/keyturn/storage/storagetest"
)

// Strangers ask in the name of clients that there are not, as many as they can. Honest clients go on, the replica stays
// ready, and nothing of it is among the failures that wake somebody.
func TestFloodOfStrangers(t *testing.T) {
	storagetest.EachURL(t, func(t *testing.T, databaseURL string) {
		c := HashingConfig(databaseURL)
		if !IsSQLite(databaseURL) {
			proxy := storagetest.NewProxy(t, databaseURL)
			proxy.Delay(2 * time.Millisecond) // a database on another host
			c.Database, c.MasterKeyFile = proxy.URL, MasterFile(t)
		}
		log := &Buffer{}
		h := serveWith(t, c, Options{Module: keystest.Module(), Log: slog.New(slog.NewJSONHandler(log, nil))})
		h.Provision()
		token := h.Login("app").RefreshToken
		flooding, stop := context.WithCancel(ctx)
		var all sync.WaitGroup
		var asked atomic.Int64
		strangers := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 300}}
		defer strangers.CloseIdleConnections()
		for i := range 300 {
			all.Go(func() {
				for n := 0; flooding.Err() == nil; n++ {
					form := strings.NewReader(fmt.Sprintf(
						"grant_type=refresh_token&refresh_token=x&client_id=no%d-%d&client_secret=x", i, n))
					r, _ := http.NewRequestWithContext(flooding, http.MethodPost, h.Base+"/token", form)
					r.Header.Set("Content-Type", formMediaType)
					if res, err := strangers.Do(r); err == nil {
						res.Body.Close()
						asked.Add(1)
					}
				}
			})
		}
		served := 0
		lasts := time.Duration(servertest.Times(int(800*time.Millisecond), int(4*time.Second)))
		for end := time.Now().Add(lasts); time.Now().Before(end); served++ {
			token = h.Refresh("app", token).Tokens(t).RefreshToken
			if err := h.Server.ready(); err != nil {
				t.Errorf("strangers make the replica unready: %v", err)
			}
		}
		stop()
		all.Wait()
		t.Logf("%d refreshes beside %d questions of strangers", served, asked.Load())
		for _, cause := range []string{causeDatabase, causeKeys, causeClock, causeInternal} {
			if text := h.metricsText(); !strings.Contains(text, `keyturn_failures_total{cause="`+cause+`"} 0`) {
				t.Errorf("strangers bring about failures of cause %s", cause)
			}
		}
		if strings.Contains(log.String(), `"level":"ERROR"`) {
			t.Error("strangers bring about errors in the log")
		}
	})
}
