"""Cascade Mask R-CNN, MALA-L, 36 epochs.

Command:   linzoo train-detection cascade-mask-rcnn_mala-large_fpn_4conv1fc-giou_ms-crop-3x_coco
Published: none in the authors' README (github.com/qhfan/MALA)
Here:      not run
"""

_base_ = "./cascade-mask-rcnn_mala-small_fpn_4conv1fc-giou_ms-crop-3x_coco.py"
model = dict(
    backbone=dict(model_name="mala_large", drop_path_rate=0.55),
    neck=dict(in_channels=[96, 192, 448, 640]),
)
train_dataloader = dict(batch_size=1)
auto_scale_lr = dict(base_batch_size=8)  # 8 GPUs x 1 picture
optim_wrapper = dict(optimizer=dict(lr=2e-4))
