package storage

import (
	"context"
	"time"
)

// LoginView is everything that a password login needs, read in one statement.
type LoginView struct {
	User     User // the zero value if Found is false
	Found    bool
	Familiar bool      // the user has logged in from this address before
	SeenAt   time.Time // when last, to the day; only of a familiar address
	Account  Failures  // of the account, from unfamiliar addresses
	Address  Failures  // of the address, for accounts to which it is unfamiliar
	Pair     Failures  // of the account from this address
	Grants   int       // open grants of the user at the client, up to 101

	StrangersHash string // password hash of the user that LoginKey.Stranger selects; "" if there is none
}

// LoginKey selects what LoginView reads.
type LoginKey struct {
	Username, ClientID, Address              string
	AccountBucket, AddressBucket, PairBucket string
	Stranger                                 int64 // selects some user: the one with the next id, or the first
}

type loginRow struct {
	ID           *int64  `db:"id"`
	Sub          *string `db:"sub"`
	Username     *string `db:"username"`
	PasswordHash *string `db:"password_hash"`
	Roles        List    `db:"roles"`
	Epoch        *int64  `db:"epoch"`
	DisabledAt   *Time   `db:"disabled_at"`
	Familiar     bool    `db:"familiar"`
	SeenAt       Time    `db:"seen_at"`
	AccountCount int64   `db:"account_count"`
	AccountLast  Time    `db:"account_last"`
	AddressCount int64   `db:"address_count"`
	AddressLast  Time    `db:"address_last"`
	PairCount    int64   `db:"pair_count"`
	PairLast     Time    `db:"pair_last"`
	Grants       int     `db:"grants"`
	Strangers    string  `db:"strangers"`
}

// openGrants counts the open grants of user u at client $2, up to 101. The index grants_open bounds the cost, however
// many grants have ended. The idle limit is not in the index: an idle grant counts until clean-up deletes it.
const openGrants = `(SELECT COUNT(*) FROM (SELECT 1 FROM grants g WHERE g.user_id = u.id AND g.client_id = $2
	AND g.user_epoch = u.epoch AND g.client_epoch = (SELECT c.epoch FROM clients c WHERE c.id = $2)
	AND g.revoked_at IS NULL LIMIT 101) open)`

// LoginView reads the user, if it exists, its counted failures and the number of its open grants.
func (u Users) LoginView(ctx context.Context, k LoginKey) (LoginView, error) {
	var r loginRow
	err := u.db.engine.Get(
		ctx,
		"login view",
		&r,
		`SELECT u.id, u.sub, u.username, u.password_hash, COALESCE(u.roles, '[]') AS roles, u.epoch, u.disabled_at,
		f.user_id IS NOT NULL AS familiar, COALESCE(f.seen_at, 0) AS seen_at,
		COALESCE(t1.failures, 0) AS account_count, COALESCE(t1.last_at, 0) AS account_last,
		COALESCE(t2.failures, 0) AS address_count, COALESCE(t2.last_at, 0) AS address_last,
		COALESCE(t3.failures, 0) AS pair_count, COALESCE(t3.last_at, 0) AS pair_last,
		`+openGrants+` AS grants,
		COALESCE((SELECT n.password_hash FROM users n WHERE n.id >= $7 ORDER BY n.id LIMIT 1),
			(SELECT n.password_hash FROM users n ORDER BY n.id LIMIT 1), '') AS strangers
		FROM (SELECT 1 AS one) always
		LEFT JOIN users u ON u.username = $1
		LEFT JOIN familiar_addresses f ON f.user_id = u.id AND f.address = $3
		LEFT JOIN throttle t1 ON t1.bucket = $4
		LEFT JOIN throttle t2 ON t2.bucket = $5
		LEFT JOIN throttle t3 ON t3.bucket = $6`,
		k.Username,
		k.ClientID,
		k.Address,
		k.AccountBucket,
		k.AddressBucket,
		k.PairBucket,
		k.Stranger,
	)
	v := LoginView{
		Found:         r.ID != nil,
		Familiar:      r.Familiar,
		SeenAt:        r.SeenAt.Time,
		Grants:        r.Grants,
		StrangersHash: r.Strangers,
		Account:       Failures{r.AccountCount, r.AccountLast.Time},
		Address:       Failures{r.AddressCount, r.AddressLast.Time},
		Pair:          Failures{r.PairCount, r.PairLast.Time},
	}
	if v.Found {
		v.User = User{
			ID:           *r.ID,
			Sub:          *r.Sub,
			Username:     *r.Username,
			PasswordHash: *r.PasswordHash,
			Roles:        r.Roles,
			Epoch:        *r.Epoch,
			DisabledAt:   r.DisabledAt,
		}
	}
	return v, err
}
