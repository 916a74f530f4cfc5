import torch

import kit

labels = torch.arange(400) % 2  # stripes along the rows against stripes along the columns
images = torch.randint(0, 80, (400, 1, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
images[labels == 0, :, ::2] += 120
images[labels == 1, :, :, ::2] += 120
kit.data.register("stripes", lambda root, image_size: kit.data.Source(("rows", "columns"), (images, labels)))
