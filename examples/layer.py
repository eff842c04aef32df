"""BitLinear in a network of your own: it trains float weights and multiplies integer codes.

python examples/layer.py
"""

import torch
from torch import nn

from onebit.nn import BitLinear

torch.manual_seed(0)
net = nn.Sequential(nn.RMSNorm(16), BitLinear(16, 64), nn.ReLU(), nn.RMSNorm(64), BitLinear(64, 1))
optimizer = torch.optim.AdamW(net.parameters(), lr=1e-2)

x = torch.randn(512, 16)
y = (x[:, :1] * x[:, 1:2]).tanh()  # something a linear map cannot do
for step in range(301):
    loss = nn.functional.mse_loss(net(x), y)
    if step % 100 == 0:
        print(f"step {step:3d}  loss {loss.item():.4f}")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

codes, scale = net[1].codes()[:2]
print(f"codes {sorted(set(codes.flatten().tolist()))}, scale {scale.unique().item():.4f}")
