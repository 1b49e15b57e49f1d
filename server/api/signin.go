package api

import (
	"context"

	swanherdv1 "github.com/swanherd/swanherd/proto/swanherd/v1"
	"github.com/swanherd/swanherd/server/access"
)

// SignIn implements SignInService.
type SignIn struct {
	swanherdv1.UnimplementedSignInServiceServer

	keeper *access.Keeper
}

// NewSignIn returns the service.
func NewSignIn(keeper *access.Keeper) *SignIn { return &SignIn{keeper: keeper} }

// GetIdentityProvider implements SignInService.
func (s *SignIn) GetIdentityProvider(context.Context, *swanherdv1.GetIdentityProviderRequest) (*swanherdv1.IdentityProvider, error) {
	return s.keeper.IdentityProvider(), nil
}
