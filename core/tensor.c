/* Sizes of tensors. */
#include "core/tensor.h"

size_t tensor_type_bytes(enum tensor_type type)
{
    return type == TENSOR_F32 || type == TENSOR_U32 ? 4 : 8;
}

size_t tensor_elements(const struct tensor *tensor)
{
    size_t count = 1;
    for (size_t i = 0; i < tensor->rank; i++) count *= tensor->shape[i];
    return count;
}

size_t tensor_bytes(const struct tensor *tensor)
{
    return tensor_elements(tensor) * tensor_type_bytes(tensor->type);
}
